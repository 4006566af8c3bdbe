"""One socket, from the name of a host to its last byte.

`egress` decides where a dial may go, `dial` makes the connection, `frames` is RFC 6455 as a parser, `liveness` and `pulse` are
its clocks, `outbound` is what it sends, `socket` puts these together and closes in order. It imports leaves only: it must not
know an id, an event, the link or the journal. Read frames, then socket, then dial.
"""
