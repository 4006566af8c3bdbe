"""The service: what keeps the workers, the journal, and what is shown of it.

`service` puts the floor together; `connections` and `workers` are its verbs, `admission` says what may begin, `opening` is the way down of a
new connection, `intake` the way up of every event, `asks` what code in workers asks for. `directory` and `feed` are what is known and
shown, `adoption` and `endings` what becomes of connections whose worker cannot tell. It knows no HTTP. Read service, then intake.
"""
