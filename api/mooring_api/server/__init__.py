"""The composition root, and the life of the service process.

`serve` is the life: signals, readiness, restart, end. `composition` puts journal, service and API together and ends them in
order; `listen` has the socket and its certificate; `preflight` says whether a start would succeed, `restart` hands over to the
next program, `systemd` speaks with a service manager. `logs` sets up what is written, `streams` writes it so that nobody waits,
`state_file` is how other programs find the service. Only commands stand above it. Read serve, composition.
"""
