"""Requests that come from another node: run by the same application as all others, over connections inside this process.

There is no socket: what is written is handed over as it is. A connection is kept for the next request, which costs less than another one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Headers = list[tuple[str, str]]
Answered = tuple[int, Headers, bytes]
Run = Callable[[str, str, Headers, bytes], Awaitable[Answered]]
HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"})
HEAD_END = b"\r\n\r\n"
PIECE_BYTES = 64 * 1024  # of a body, at once; then the application may say that it has enough for now
MAX_IDLE = 32
BODILESS = frozenset({204, 304})

_Head = tuple[int, Headers, int]  # status, headers, how many bytes follow


class Inner:
    """The connections inside this process.

    Args:
        make: Returns the protocol of one, as for a socket that was just accepted.
        headers: Of each request, before its own.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], headers: Headers) -> None:
        self._make, self._headers = make, headers
        self._idle: list[_Connection] = []

    async def run(self, method: str, path: str, headers: Headers, body: bytes) -> Answered:
        """Return status, headers and body of the answer.

        Raises:
            OSError: If the connection ends without one.
            ValueError: If the answer is none of HTTP, or does not say how long it is: streams are answered where they are asked for.
        """
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in (*self._headers, *headers)),
            f"Content-Length: {len(body)}",
        ]
        connection = self._take()
        try:
            return await connection.ask("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"), body)
        finally:
            if connection.is_free and len(self._idle) < MAX_IDLE:
                self._idle.append(connection)
            else:
                connection.close()

    def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closing():
                return connection
        return _Connection(self._make())


class _Connection(asyncio.Transport):
    """What the application reads from and writes to, and who asks it: one request at a time."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._closing = self._paused = self._free = False
        self._unread: deque[memoryview] = deque()  # of the request's body
        self._written = bytearray()
        self._head: _Head | None = None  # of the answer, once it is written
        self._answer: asyncio.Future[Answered] | None = None
        protocol.connection_made(self)

    async def ask(self, head: bytes, body: bytes) -> Answered:
        """Have a request answered; raises as `Inner.run`."""
        self._answer = self._loop.create_future()
        self._head, self._free = None, False
        self._written.clear()
        whole = memoryview(body)
        self._unread.extend(whole[at : at + PIECE_BYTES] for at in range(0, len(body), PIECE_BYTES))
        self._protocol.data_received(head)
        self._hand_over()
        return await self._answer

    @property
    def is_free(self) -> bool:
        """True once a request was read and answered as it should be: another one will be, too."""
        return self._free and not self._closing and not self._paused and not self._unread

    def _hand_over(self) -> None:
        while self._unread and not self._paused and not self._closing:
            self._protocol.data_received(bytes(self._unread.popleft()))

    def _look(self, *, ended: bool = False) -> None:
        """See whether the answer is whole; `ended`: nothing of it follows."""
        answer = self._answer
        if answer is None or answer.done():
            return
        if self._head is None and (at := self._written.find(HEAD_END)) >= 0:
            try:
                self._head = _read_head(bytes(self._written[:at]))
            except (IndexError, KeyError, ValueError):
                answer.set_exception(ValueError(f"an answer that cannot be read: {bytes(self._written[:200])!r}"))
                return
            del self._written[: at + len(HEAD_END)]
        if self._head is not None:
            status, headers, size = self._head
            if len(self._written) >= size:
                self._free = status < 300
                answer.set_result((status, headers, bytes(self._written)))
                return
        if ended:
            answer.set_exception(ConnectionError("no answer"))

    # Of asyncio.Transport, for the application

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._written += data
        self._look()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._written += b"".join(list_of_data)
        self._look()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        self._paused = False
        self._loop.call_soon(self._hand_over)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self._unread.clear()
        self._look(ended=True)
        self._loop.call_soon(self._protocol.connection_lost, None)

    def abort(self) -> None:
        self.close()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def get_write_buffer_size(self) -> int:
        return 0


def _read_head(head: bytes) -> _Head:
    first, *others = head.decode("utf-8", "surrogateescape").split("\r\n")
    status = int(first.split(" ")[1])
    found = [(name, value.strip()) for name, _, value in (line.partition(":") for line in others)]
    size = 0 if status in BODILESS else int({name.lower(): value for name, value in found}["content-length"])
    return status, [one for one in found if one[0].lower() not in HOP_BY_HOP], size
