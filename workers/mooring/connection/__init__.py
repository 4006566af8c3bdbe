"""One id: its law of callbacks, its record, its socket.

`state` is the table of states, `connection` decides, `recorded` is what the journal learns, `conversion` turns frames into what
callbacks are handed. It must not know the process round it. Read state first, then connection.
"""
