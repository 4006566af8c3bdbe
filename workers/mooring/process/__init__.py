"""One worker process: puts the rooms below together, obeys commands, ends in order.

`worker` is the process, `runtime` what it is made of, `identity` who it is, `log_file` and `repeats` keep its log within bounds.
Nothing but `python -m mooring` and the test kit stands above it. Read runtime first.
"""
