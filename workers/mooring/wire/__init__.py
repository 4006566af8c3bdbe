"""One socket, from the name of a host to its last byte.

`egress` decides where a dial may go, `dial` makes the connection, `frames` is RFC 6455 as a parser, `liveness` and `pulse` are
its clocks, `outbound` what waits to be written. It must not know an id, an event or the journal. Read frames, then dial.
"""
