"""Requests that come from another node: run by the same application as all others, over a connection inside this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

Headers = list[tuple[str, str]]
Answered = tuple[int, Headers, bytes]
Run = Callable[[str, str, Headers, bytes], Awaitable[Answered]]
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})


async def run(
    factory: Callable[[], asyncio.Protocol], method: str, path: str, headers: Headers, body: bytes
) -> tuple[int, Headers, bytes]:
    """Return status, headers and body of the answer.

    Raises:
        OSError: If the connection ends without one.
        ValueError: If the answer is none of HTTP.
    """
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(factory, theirs)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    try:
        # 1.0: the answer ends with the connection, whatever its length.
        lines = [
            f"{method} {path} HTTP/1.0",
            *(f"{name}: {value}" for name, value in headers),
            f"Content-Length: {len(body)}",
        ]
        writer.write("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body)
        await writer.drain()
        head, separator, rest = (await reader.read(-1)).partition(b"\r\n\r\n")
    finally:
        writer.close()
    if not separator:
        raise ConnectionError("no answer")
    first, *others = head.decode("utf-8", "surrogateescape").split("\r\n")
    found = [(name, value.strip()) for name, _, value in (line.partition(":") for line in others)]
    return int(first.split(" ")[1]), [one for one in found if one[0].lower() not in HOP_BY_HOP], rest
