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

from mooring.deadline import Deadline
from mooring.errors import LinkError, MooringError
from mooring.link.channel import Channel
from mooring.link.messages import (
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Hello,
    Probe,
    Refused,
    Report,
    report_decoder,
)
from mooring_service.processes.slot import Slot

PROBE_S = 2.0  # to who waits for the service to begin: so often it hears that there is one
HELLO_TIMEOUT_S = 10.0  # a stream that says nothing is not a worker
SOCKET_NAME = "link.sock"
MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing NUL

log = logging.getLogger("mooring.supervisor")


def check_path(path: Path) -> None:
    """Check that a socket can have this path.

    Raises:
        MooringError: If it is too long.
    """
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise MooringError(f"the state directory's path is too long for a socket: {path}")


class LinkServer:
    """Listens on a Unix socket of the state directory.

    Args:
        find: Incarnation → slot, or None.
        on_hello: Called when a slot's stream has begun; further messages go where it sets `Channel.on_messages`.
        on_lost: Called when a slot's stream has ended.
        on_refused: Called when a process of a slot is refused for good.
    """

    def __init__(
        self,
        path: Path,
        *,
        find: Callable[[str], Slot | None],
        on_hello: Callable[[Slot, Channel[Report], Hello], None],
        on_lost: Callable[[Slot], None],
        on_refused: Callable[[Slot, Hello], None],
    ) -> None:
        self.path = path
        self._find = find
        self._on_hello = on_hello
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._streams: dict[Channel[Report], Slot | None] = {}
        self._server: asyncio.Server | None = None
        self._begun = False
        self._early: list[tuple[Channel[Report], list[Report]]] = []  # said hello before that
        self._probe_timer: asyncio.Handle | None = None
        self.stopping = False

    async def listen(self) -> None:
        """Listen. Only the holder of the state directory's lock may call this. Who says hello waits for `begin`.

        Raises:
            MooringError: If the path is too long for a socket.
        """
        check_path(self.path)
        self.path.unlink(missing_ok=True)  # we hold the lock: what is left over is nobody's
        old_umask = os.umask(0o177)
        try:
            self._server = await asyncio.get_running_loop().create_unix_server(self._make_channel, str(self.path))
        finally:
            os.umask(old_umask)

    def begin(self) -> None:
        """It is known which processes there are: take who says hello from now on, and who has said so before."""
        self._begun = True
        early, self._early = self._early, []
        for channel, reports in early:
            channel.resume_reading()
            if channel in self._streams:
                channel.hand_over(reports)

    async def close(self) -> None:
        """End all streams."""
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        if self._server is not None:
            self._server.close()
        for channel in list(self._streams):
            channel.close()
        await asyncio.sleep(0)

    def _make_channel(self) -> Channel[Report]:
        channel: Channel[Report] = Channel(report_decoder, self._first, self._lost)
        self._streams[channel] = None
        loop = asyncio.get_running_loop()
        Deadline(loop, loop.time() + HELLO_TIMEOUT_S, lambda: self._drop_silent(channel))
        return channel

    def _drop_silent(self, channel: Channel[Report]) -> None:
        waits = any(early is channel for early, _ in self._early)
        if channel in self._streams and self._streams[channel] is None and not waits:
            channel.abort()

    def _first(self, channel: Channel[Report], reports: list[Report]) -> None:
        if not self._begun:
            channel.pause_reading()  # it has nothing more to say until it is welcomed
            self._early.append((channel, reports))
            if self._probe_timer is None:
                self._probe_early()
            return
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
                if slot is not None and refused.drain and _proves(slot, hello):
                    self._on_refused(slot, hello)
            channel.close()
            return
        self._streams[channel] = slot
        slot.linked_by(channel)
        channel.read_to_the_end()
        self._on_hello(slot, channel, hello)
        if rest:
            channel.on_messages(channel, rest)

    def _probe_early(self) -> None:
        self._early = [(channel, reports) for channel, reports in self._early if channel in self._streams]
        for channel, _ in self._early:
            channel.send(Probe())
        if not self._begun:
            self._probe_timer = asyncio.get_running_loop().call_later(PROBE_S, self._probe_early)

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
        if not _proves(slot, hello):
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


def _proves(slot: Slot, hello: Hello) -> bool:
    return hmac.compare_digest(hello.secret.encode(), slot.record.secret.encode())
