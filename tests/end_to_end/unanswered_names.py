"""Look names up where no name server answers: run in namespaces of its own (``unshare -rmn``), see `test_names.py`."""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from tests.conftest import RunningService

SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1


def ask_us(folder: Path) -> None:
    """Bring loopback up, and have all of this machine ask its port 53 for names."""
    with socket.socket() as sock:
        fcntl.ioctl(sock, SIOCSIFFLAGS, struct.pack("16sh14s", b"lo", IFF_UP, b""))
    config = folder / "resolv.conf"
    config.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(config), "/etc/resolv.conf"], check=True)


def become_name_server(folder: Path) -> None:
    """Answer on port 53: ``absent.*`` does not exist, about all other names nothing is said."""
    ask_us(folder)
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 53))

    def answer() -> None:
        while True:
            query, peer = server.recvfrom(4096)
            if b"absent" in query:
                server.sendto(query[:2] + b"\x81\x83" + query[4:], peer)  # NXDOMAIN

    threading.Thread(target=answer, daemon=True).start()


async def main(folder: Path) -> None:
    service = await RunningService(folder / "state").start()
    try:
        for number in range(12):
            await service.open(f"ws://hole{number}.test/", 202, {"Prefer": "respond-async"})
        begun = time.monotonic()
        problem = await service.open("ws://absent.test/", 502)
        answered = time.monotonic()
        await service.stop()
        found = {"answer_s": answered - begun, "stop_s": time.monotonic() - answered}
        print(json.dumps({**found, "errCode": problem["errors"][0]["errCode"]}))
    finally:
        await service.clean_up()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mooring-") as name:
        become_name_server(Path(name))
        asyncio.run(main(Path(name)))
