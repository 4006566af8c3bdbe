"""Real WebSocket servers that can be stopped and started again on their port: ``websockets``, Node's ``ws``, mosquitto, nginx."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import struct
import sys
from pathlib import Path
from typing import Self

import pytest

from tests.conftest import ROOT, wait_for
from tests.proxies import TOOLS, ProxyProcess, free_port

PEERS = ROOT / "tests" / "peers"
STOP_S = 60.0


class RealServer(ProxyProcess):
    """One server. `url` is a WebSocket's; `told` is all that it has written, in all its lives."""

    scheme = "ws"

    def __init__(self) -> None:
        super().__init__()
        self._past = ""

    async def stop(self, number: int = signal.SIGTERM) -> None:
        """Have it end by a signal, and wait until it has."""
        assert self.process is not None
        os.kill(self.process.pid, number)
        await wait_for(lambda: self.process is not None and self.process.poll() is not None, STOP_S, "it ends")
        await self.__aexit__()

    async def start(self) -> None:
        """Start it again, on its port."""
        await self.__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        if self.folder.exists():
            self._past += self.log()
            await super().__aexit__()

    @property
    def told(self) -> str:
        return self._past + (self.log() if self.folder.exists() else "")

    @property
    def most_sockets(self) -> int:
        """How many sockets a feed had at most at a time."""
        return max((int(number) for number in re.findall(r"^sockets (\d+)$", self.told, re.M)), default=0)


class Feed(RealServer):
    """A numbered feed: ``"1"``, ``"2"``, … on each socket."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate


class WebsocketsFeed(Feed):
    program = sys.executable
    may_be_nobody = False

    def prepare(self) -> list[str]:
        return [str(PEERS / "feed_websockets.py"), str(self.port), str(self.rate)]


def node_script(folder: Path, name: str, module: str) -> str:
    """Return the path of a program of `PEERS` beside its modules: a CommonJS program looks for them from where it is."""
    if not (TOOLS / "node_modules" / module).exists():
        pytest.skip(f"no {module} for node here: tools/install-test-tools could not get it")
    script = folder / name
    shutil.copy(PEERS / name, script)
    (folder / "node_modules").symlink_to(TOOLS / "node_modules")
    return str(script)


class WsFeed(Feed):
    program = "node"
    may_be_nobody = False

    def prepare(self) -> list[str]:
        return [node_script(self.folder, "feed_ws.js", "ws"), str(self.port), str(self.rate)]


class NodeServer(RealServer):
    """A server of a protocol, of somebody else: `script` is one of `PEERS`."""

    program = "node"
    may_be_nobody = False
    script, module, path = "", "", "/"

    def prepare(self) -> list[str]:
        return [node_script(self.folder, self.script, self.module), str(self.port)]

    @property
    def url(self) -> str:
        return f"{super().url}{self.path}"


class GraphqlWs(NodeServer):
    script, module = "graphql_ws.js", "graphql-ws"


class SocketIo(NodeServer):
    script, module, path = "socket_io.js", "socket.io", "/socket.io/?EIO=4&transport=websocket"


class Ganache(NodeServer):
    script, module = "ganache.js", "ganache"


class Mosquitto(RealServer):
    """An MQTT broker: over WebSocket on `port`, over TCP on `plain_port`."""

    program = "mosquitto"

    def __init__(self) -> None:
        super().__init__()
        self.plain_port = free_port()

    def prepare(self) -> list[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.plain_port} 127.0.0.1\nlistener {self.port} 127.0.0.1\nprotocol websockets\n"
            f"allow_anonymous true\npersistence false\nlog_dest stdout\nlog_type all\n"
            + ("user root\n" if os.geteuid() == 0 else "")
        )
        return ["-c", str(config)]


class Nginx(RealServer):
    """nginx in front of another server; a reload ends the sockets of the old workers after 0.2 s."""

    program = "nginx"
    may_be_nobody = False

    def __init__(self, behind: RealServer) -> None:
        super().__init__()
        self.behind = behind

    def prepare(self) -> list[str]:
        config = self.folder / "nginx.conf"
        temporary = "".join(
            f"{name}_temp_path {self.folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        config.write_text(
            ("user root;\n" if os.geteuid() == 0 else "")
            + f"daemon off;\nworker_processes 1;\npid {self.folder}/pid;\nerror_log stderr notice;\n"
            "worker_shutdown_timeout 200ms;\nevents { worker_connections 64; }\n"
            f"http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{self.port};\nlocation / {{\n"
            f"proxy_pass http://127.0.0.1:{self.behind.port};\nproxy_http_version 1.1;\n"
            "proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection upgrade;\n}\n}\n}\n"
        )
        return ["-p", str(self.folder), "-c", str(config), "-e", "stderr"]

    def reload(self) -> None:
        """Read the configuration again: new workers take what comes, the old ones end."""
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGHUP)


def mqtt_packet(kind: int, body: bytes) -> bytes:
    """Return one MQTT control packet (section 2.2 of MQTT 3.1.1); bodies below 128 bytes."""
    assert len(body) < 128
    return bytes([kind, len(body)]) + body


def _text(value: str) -> bytes:
    return struct.pack(">H", len(value)) + value.encode()


def mqtt_connect(client: str) -> bytes:
    """Return CONNECT, with a clean session."""
    return mqtt_packet(0x10, _text("MQTT") + bytes([4, 2]) + struct.pack(">H", 60) + _text(client))


def mqtt_subscribe(topic: str) -> bytes:
    """Return SUBSCRIBE, QoS 0."""
    return mqtt_packet(0x82, struct.pack(">H", 1) + _text(topic) + b"\0")


def mqtt_publish(topic: str, payload: bytes) -> bytes:
    """Return PUBLISH, QoS 0."""
    return mqtt_packet(0x30, _text(topic) + payload)


class Publisher:
    """Publishes 1, 2, … to ``feed`` of a broker, at a rate; comes back to it when it is restarted."""

    def __init__(self, broker: Mosquitto, rate: float) -> None:
        self._broker = broker
        self._rate = rate
        self.number = 0

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        # Ends by cancellation.
        while True:
            try:
                await self._publish()
            except OSError:
                await asyncio.sleep(0.02)

    async def _publish(self) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", self._broker.plain_port)
        try:
            writer.write(mqtt_connect("publisher"))
            while True:
                self.number += 1
                writer.write(mqtt_publish("feed", str(self.number).encode()))
                await writer.drain()
                await asyncio.sleep(1 / self._rate)
        finally:
            writer.transport.abort()


def published(data: bytes) -> list[int]:
    """Return the numbers that PUBLISH packets in `data` carry; other packets are passed over."""
    found: list[int] = []
    while data:
        kind, size = data[0] >> 4, data[1]
        body, data = data[2 : 2 + size], data[2 + size :]
        if kind == 3:
            topic = int.from_bytes(body[:2])
            found.append(int(body[2 + topic :]))
    return found
