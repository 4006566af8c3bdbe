"""The only room where code that is not ours runs, and the face that it is handed.

`mailbox` is what waits, `context` runs it, in `thread`; `running` is what it is doing, `calls` and `failures` are who is told of it;
`handlers` finds and makes what the configuration names, `construction` makes the handlers of requests, `websocket` is what a
callback is handed, `current` what code calls without one. What it asks of the worker round it is `host`, a protocol: this room must
not know the process. Read mailbox, context, websocket.
"""
