"""The service's end of the link: accepts streams, checks who says hello, and hands the stream to the worker's slot."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path

from mooring.errors import LinkError, MooringError
from mooring.link.channel import Channel
from mooring.link.messages import OLDEST_PROTOCOL_VERSION, PROTOCOL_VERSION, Hello, Refused, Report, report_decoder
from mooring_service.processes.slot import Slot

HELLO_TIMEOUT_S = 10.0  # a stream that says nothing is not a worker
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing NUL

log = logging.getLogger("mooring.supervisor")


class LinkServer:
    """Listens on a Unix socket of the state directory.

    Args:
        find: Incarnation → slot, or None.
        on_hello: Called when a slot's stream has begun; further messages go where it sets `Channel.on_messages`.
        on_lost: Called when a slot's stream has ended.
    """

    def __init__(
        self,
        path: Path,
        *,
        find: Callable[[str], Slot | None],
        on_hello: Callable[[Slot, Channel[Report], Hello], None],
        on_lost: Callable[[Slot], None],
    ) -> None:
        self.path = path
        self._find = find
        self._on_hello = on_hello
        self._on_lost = on_lost
        self._streams: dict[Channel[Report], Slot | None] = {}
        self._server: asyncio.Server | None = None
        self.stopping = False

    async def start(self) -> None:
        """Listen. Only the holder of the state directory's lock may call this.

        Raises:
            MooringError: If the path is too long for a socket.
        """
        if len(str(self.path).encode()) > MAX_SOCKET_PATH_BYTES:
            raise MooringError(f"the state directory's path is too long for a socket: {self.path}")
        self.path.unlink(missing_ok=True)  # we hold the lock: what is left over is nobody's
        old_umask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(self._make_channel, str(self.path))
        finally:
            os.umask(old_umask)

    async def close(self) -> None:
        """End all streams."""
        if self._server is not None:
            self._server.close()
        for channel in list(self._streams):
            channel.close()
        await asyncio.sleep(0)

    def _make_channel(self) -> Channel[Report]:
        channel: Channel[Report] = Channel(report_decoder, self._first, self._lost)
        self._streams[channel] = None
        asyncio.get_running_loop().call_later(HELLO_TIMEOUT_S, self._drop_silent, channel)
        return channel

    def _drop_silent(self, channel: Channel[Report]) -> None:
        if channel in self._streams and self._streams[channel] is None:
            channel.abort()

    def _first(self, channel: Channel[Report], reports: list[Report]) -> None:
        hello, *rest = reports
        if not isinstance(hello, Hello):
            log.warning("a stream on the link did not begin with hello; closed")
            channel.abort()
            return
        slot = self._find(hello.incarnation)
        refused = self._refusal(channel, slot, hello)
        if refused is not None or slot is None:
            reason = refused.reason if refused is not None else ""
            log.warning(
                "worker %s, process %d, is refused: %s",
                hello.worker,
                hello.pid,
                reason,
                extra={"worker": hello.worker, "incarnation": hello.incarnation},
            )
            if refused is not None:
                channel.send(refused)
            channel.close()
            return
        self._streams[channel] = slot
        slot.linked_by(channel)
        self._on_hello(slot, channel, hello)
        if rest:
            channel.on_messages(channel, rest)

    def _refusal(self, channel: Channel[Report], slot: Slot | None, hello: Hello) -> Refused | None:
        if hello.version < OLDEST_PROTOCOL_VERSION or hello.oldest_version > PROTOCOL_VERSION:
            return Refused(
                f"it speaks link versions {hello.oldest_version} to {hello.version}, "
                f"this service {OLDEST_PROTOCOL_VERSION} to {PROTOCOL_VERSION}",
                drain=True,
            )
        if self.stopping:
            return Refused("the service is stopping")
        if slot is None:
            return Refused("this service does not know it", drain=True)
        if not hmac.compare_digest(hello.secret.encode(), slot.record.secret.encode()):
            return Refused("wrong secret", drain=True)
        if slot.linked:
            return Refused("another stream of the same process is linked")
        peer = channel.peer_socket()
        if peer is not None:
            pid, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid != os.getuid() or pid != hello.pid:
                return Refused("the process at the other end is not the one that it says it is", drain=True)
        return None

    def _lost(self, channel: Channel[Report], exc: Exception | None) -> None:
        slot = self._streams.pop(channel, None)
        if slot is None:
            return
        if exc is not None:
            log.warning("the link of worker %s: %s", slot.name, exc, extra=slot.tags)
        if isinstance(exc, LinkError):
            slot.link_faults += 1
        if slot.link_lost(channel):
            self._on_lost(slot)
