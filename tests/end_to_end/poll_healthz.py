"""Asks a service for its health every 5 ms, from a process of its own, until standard input ends; then prints the worst answer.

``python -m tests.end_to_end.poll_healthz PORT PID``: JSON of `worst_ms`, but for what the service and this process had to wait for a
processor meanwhile, `raw_ms` of that answer, and how many there were.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time

from tests.end_to_end.figures import all_waited_s

PERIOD_S = 0.005


def main(port: int, pid: int) -> None:
    request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    worst, raw, count = 0.0, 0.0, 0
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
            waited = all_waited_s(pid) + all_waited_s(os.getpid())
            begun = time.monotonic()
            sock.sendall(request)
            assert b" 200 " in sock.recv(65_536)
            took = time.monotonic() - begun
            own = took - (all_waited_s(pid) + all_waited_s(os.getpid()) - waited)
            count += 1
            if own > worst:
                worst, raw = own, took
    print(json.dumps({"worst_ms": round(worst * 1000, 1), "raw_ms": round(raw * 1000, 1), "count": count}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
