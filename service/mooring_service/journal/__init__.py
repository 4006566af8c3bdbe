"""The ordered record of all events, and of what must survive with them.

`journal` is the protocol, `sqlite` and `memory` fulfil it, `batch` is what is stored, `cursor` what a subscriber resumes from,
`file` and `retention` belong to the database. Nothing outside this room knows SQL. Read journal first, then batch.
"""
