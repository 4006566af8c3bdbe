"""The ordered record of all events, and of what must survive with them.

`journal` is the protocol, `sqlite` and `memory` fulfil it, `batch` is what is stored, `cursor` what a subscriber resumes from.
Behind `sqlite`, which is the event loop's side: `writer` knows when a transaction is written, `transaction` what, `jobs` what is
kept beside the record; `reader` looks into the file, `file` opens, checks and restores it, `retention` says what has to go. Nothing
outside this room knows SQL, and nothing in it knows workers or requests. Read journal first, then batch, then writer.
"""
