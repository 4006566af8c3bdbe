"""One socket, from the name of a host to its last byte.

`target` reads a URL, `route` and `egress` decide where a dial may go and which way, `proxy` and `upgrade` are what is said on
it; `connect` makes the connection (with `resolve`, `threads`, `tls`, `exchange`), `dial` the handshake on top (with `answer`).
`frames` is RFC 6455 as a parser, `liveness` and `pulse` are its clocks, `outbound` is what it sends, `socket` puts these together
and closes in order. It imports leaves only: it must not know an id, an event, the link or the journal. Read frames, then socket,
then dial.
"""
