"""Worker processes, seen from the service: started, watched, adopted, ended.

`supervisor` decides when, `worker_process` knows one child, `slot` one name, `link_server` takes their streams, `watch` judges the
silent, `worker_state` and `backoff` are pure. It must not know HTTP. Read worker_state first, then supervisor.
"""
