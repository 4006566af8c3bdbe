"""The composition root, and the life of the service process.

`serve` puts the floors together and ends them in order, `restart` hands over to the next program, `systemd` speaks with a
service manager, `logs` sets up what is written. Only commands stand above it. Read serve first.
"""
