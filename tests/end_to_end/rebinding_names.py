"""A hook to a name whose owner moves it: run in namespaces of its own (``unshare -rmn``), see `test_names.py`.

There we are the name server, and every address is ours: that of an honest receiver, and that of the metadata service of clouds, at
which a canary listens. Answers have no time to live, and each question may be answered by other addresses.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.conftest import RunningService, wait_for
from tests.end_to_end.unanswered_names import ask_us
from tests.receiver import Receiver, all_events, hook
from tests.servers import EchoServer

HONEST, METADATA = "203.0.113.7", "169.254.169.254"
URL = "http://rebind.test/"
QUICK = {"delay": 0.1, "maxDelay": 1}
SIOCSIFADDR = 0x8916


class NameServer:
    """Answers every question for an IPv4 address with `addresses`; all others with nothing."""

    def __init__(self) -> None:
        self.addresses = [HONEST]
        self.turns = False  # each question is answered with the next of them alone
        self.asked = 0
        self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, peer = self._server.recvfrom(4096)
            self._server.sendto(self._answer(query), peer)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5  # the question: a name, type, class
        addresses = self.addresses if query[end - 4 : end - 2] == b"\0\1" else []
        if addresses:
            self.asked += 1
            if self.turns:
                addresses = [addresses[self.asked % len(addresses)]]
        records = [b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", 0, 4) + socket.inet_aton(one) for one in addresses]
        head = query[:2] + b"\x81\x80" + struct.pack("!HHHH", 1, len(records), 0, 0)
        return head + query[12:end] + b"".join(records)


def own(*addresses: str) -> None:
    """Have these addresses, too."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for at, address in enumerate(addresses):
            name, packed = f"lo:{at}".encode(), socket.inet_aton(address)
            fcntl.ioctl(sock, SIOCSIFADDR, struct.pack("16sH2x4s8x", name, socket.AF_INET, packed))


async def main(folder: Path) -> None:
    own(HONEST, METADATA)
    names = NameServer()
    config = folder / "mooring.toml"
    config.write_text("[delivery]\nallow_plain = true\n")
    service = await RunningService(folder / "state", "--config", str(config)).start()
    try:
        async with (
            Receiver(host=HONEST, port=80) as honest,
            Receiver(host=METADATA, port=80) as canary,
            EchoServer() as echo,
        ):
            await hook(service, "shop", URL, after="start", retry=QUICK)
            await service.open(echo.url)
            await honest.until(2)
            await names_move(service, echo, names, METADATA)
            await wait_for(lambda: has(service, status="Failing", reason="policy"))
            await names_move(service, echo, names, METADATA, HONEST)  # both in one answer
            names.turns = True  # and in turns
            for _ in range(5):
                await names_move(service, echo, names, METADATA, HONEST)
                await wait_for(lambda: has(service, status="Active", lag=0))
            await wait_for(lambda: has(service, status="Active", lag=0))
            direct = await service.call("PUT", "/v1/hooks/direct", 403, json={"url": f"http://{METADATA}/latest"})
            expected = [event["id"] for event in await all_events(service, "&kind=workerStarted,onOpen")]
            found = {"refused": direct["type"], "canary": canary.connections, "honest": honest.connections}
            print(json.dumps({**found, "in_order": honest.ids == expected, "events": len(expected)}))
        await service.stop()
    finally:
        await service.clean_up()


async def names_move(service: RunningService, echo: EchoServer, names: NameServer, *addresses: str) -> None:
    """Have names stand for other addresses, something to post, and the hook dial anew for it, as one that is defined anew does."""
    names.addresses = list(addresses)
    asked = names.asked
    timeout_s = 10 + asked / 1_000  # another definition, each time
    await hook(service, "shop", URL, 200, after="start", retry=QUICK, timeout=timeout_s)
    await service.open(echo.url)
    await wait_for(lambda: names.asked > asked, what="a name is looked up")


async def has(service: RunningService, **wanted: Any) -> bool:
    """Say whether the hook's record is so."""
    record = await service.get("/v1/hooks/shop")
    return all(record[key] == value for key, value in wanted.items())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="mooring-") as name:
        ask_us(Path(name))
        asyncio.run(main(Path(name)))
