"""The HTTP API: one resource a file, and what all of them share.

`app` has the routes, `connections workers events system` the resources, `schemas problems openapi` their shapes, `access gate
idempotency` who may ask and how often. It must not know how a worker does its work. Read app first.
"""
