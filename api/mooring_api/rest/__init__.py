"""The HTTP API: one resource a file, and what all of them share.

A verb is one row (`routes`): its handler, scope, query, body, answers and problems. Each resource (`connections workers events
system`) has its rows beside its handlers; `app` puts them together, and is the edge that every request passes. `openapi` and
`docs` describe the rows; `problems` has one declaration per error. `access gate stalls idempotency` decide who may ask, how many,
how slowly, how often; `refusals` makes a problem of what aiohttp would answer by itself; `metrics` are rows too. It must not know
how a worker does its work. Read routes, app, connections.
"""
