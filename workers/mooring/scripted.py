"""A peer for `mooring.testing.Server` that follows a transcript: so a recipe is tested with a few lines of text.

    from mooring.scripted import follow
    from mooring.testing import LocalWorker, Server

    LOGIN = '''
    > {"type": "login", "token": "*"}
    < {"type": "welcome"}
    '''

    def test_it_logs_in():
        with Server(follow(LOGIN)) as server, LocalWorker() as worker:
            worker.open(server.url, LogsIn())           # a handler with `recipe`
            worker.wait_for("onOpen")

How a transcript is written is said in `mooring.transcript`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from mooring.transcript import is_meant, parse_transcript


class Peer(Protocol):
    """A connection as a server has it (`mooring.testing.ServerConnection`)."""

    async def send(self, message: str) -> None:
        """Send a text."""

    async def receive(self, timeout_s: float = 30.0) -> str | bytes | None:
        """Return the next message; None once the client has closed."""


def follow(transcript: str, *, timeout_s: float = 30.0) -> Callable[[Peer], Awaitable[None]]:
    """Return a script that says and awaits what `transcript` has, and then listens until the client closes.

    Raises:
        ValueError: If it is none. The script raises AssertionError when the client says something else, or nothing for `timeout_s`.
    """
    lines = parse_transcript(transcript)

    async def script(peer: Peer) -> None:
        for line in lines:
            if line.kind == "<":
                await peer.send(line.text)
            elif line.kind == "~":
                await asyncio.sleep(line.seconds)
            else:
                try:
                    said = await peer.receive(timeout_s)
                except TimeoutError:
                    raise AssertionError(f"line {line.number}: nothing came, expected {line.text}") from None
                found = b"" if said is None else said.encode() if isinstance(said, str) else said
                assert said is not None, f"line {line.number}: the client has closed, expected {line.text}"
                assert is_meant(line.text, found), f"line {line.number}: {found!r} came, expected {line.text}"
        while await peer.receive(3600.0) is not None:
            pass

    return script
