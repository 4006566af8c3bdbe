"""The only room where code that is not ours runs, and the face that it is handed.

`context` is the mailbox and its thread, `handlers` finds and makes what the configuration names, `construction` makes the
handlers of requests, `websocket` is what a callback is handed, `current` what code calls without one. Read context first.
"""
