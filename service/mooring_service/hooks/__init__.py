"""Hooks: durable subscribers that are URLs. Each is a place in the journal, and one sender that posts what follows it.

`state` decides what an answer means, `page` what is posted; both are pure. `post` speaks HTTP on one socket, `reader` takes
events from the feed, `sender` puts them together, and waits on its `alarm`; `hook` is one hook's record, `store` its file, `hooks` the
verbs. Nothing here knows REST, nor how the journal keeps a place. Read them in that order.
"""
