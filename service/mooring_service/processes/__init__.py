"""Worker processes, seen from the service: started, watched, adopted, ended.

`supervisor` is asked for workers, `roster` knows which there are, `slot` is one of them, `requests` what it is to answer; `lifecycle` is
what happens to it, in which order: `turns` and `starter` begin it, `watch` asks what `watchdog` decides, `worker_process` is the
child, begun by the `forker` or by exec; `execution` says how that is done, and has the forker before there is a service; `orphans` are children that nobody of us has started. `link_server` takes their streams,
`reception` welcomes them, `reports` is what all of it asks of the way up. `watchdog`, `worker_state` and `backoff` are pure.
It must not know HTTP, nor what is in an event. Read worker_state first, then lifecycle, then supervisor.
"""
