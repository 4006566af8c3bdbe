"""One log, many nodes: what several services share, over NATS JetStream. Without `[cluster]` no line of this room runs.

From the bottom up: `position` and `message` say what stands in the log; `lives` who lives; `engine` is the only file that knows NATS, `pulls`
how the log is read, `objects` the stream as it must be. `chain` publishes what the journal has committed, `tail` reads the log, `fold` makes
`cluster.db` of it, `node` puts it together; `Service` knows only that. Read message, chain, tail, node.
"""
