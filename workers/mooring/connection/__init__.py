"""One id: its law of callbacks, its record, its sockets, one after the other.

`state` is the table of states, `recorded` what others may know of a connection, `connection` decides; `received` takes what came
in one read to where it is recorded (`conversion` says as what), `sends` is who waits for what is written. What a connection asks
of the worker round it is `host`, a protocol: this room must not know the process, nor user code. Read state, host, connection.

What decides about kept connections and recipes is pure, and stands each in its file: `kept_state` is their table, `keep` when to dial
again, `kept_rules` what the options must be to each other; `pointer`, `matcher`, `template`, `recipe` (made by `recipe_compiler`, shown by
`hidden`, named by `fragment` and `shipped`), `session` one socket's obedience to it; `keep_alive` and `clocks`, `queue`, `requests`.
"""
