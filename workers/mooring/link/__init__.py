"""What worker and service say to each other, and what waits for the journal.

`messages` are the words, `channel` the frames, `outbox` the numbered events until they are stored, `keyed` the answers that a
repeated request is given again, `link` the end of the worker. This room knows no socket of a server, no callback and no process
round it. Read messages first, then channel, outbox, link.
"""
