"""One worker process: puts the rooms below together, obeys commands, ends in order.

`runtime` is what it is made of, out of `threads` (what passes between them), `openings` (how connections come to be, with their
`ids`) and `figures` (how it does); `commands` are what requests have it do, `stopping` is the order of its end, `worker` the process round it; `identity` is
who it is, `log_file` and `repeats` keep its log within bounds; `program` is the life of the whole process, `forker` another one, of which workers are
copies. Nothing but `python -m mooring`, the service's start of workers and the test kit stands above it.
Read runtime, commands, stopping.
"""
