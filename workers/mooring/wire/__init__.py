"""One socket, from the name of a host to its last byte.

`target` reads a URL, `route` and `egress` decide where a dial may go and which way, `proxy` and `upgrade` are what is said on
it; `connect` makes the connection (with `resolve`, `threads`, `tls`, `exchange`), `dial` the handshake on top (with `answer`).
`frames` is RFC 6455 as a parser, `liveness` and `pulse` are its clocks, `outbound` what waits to be written. It must not know an
id, an event or the journal. Read frames, then dial.
"""
