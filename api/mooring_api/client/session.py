"""What the client asks of aiohttp: sessions, requests, streams. Imported with the first session: it takes its time."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import AsyncIterator
from typing import Any

import aiohttp

from mooring_api.client.answers import NotReached, ServiceAway

CONNECT_S = 5.0
LARGE_BODY_BYTES = 2**20  # beyond it aiohttp warns of bytes, and takes a file without a word


class Session:
    """Connections to one address; made on a running loop, to be closed.

    Args:
        base: ``http://…``, ``https://…`` or ``unix:PATH``.
        ssl: As `aiohttp.TCPConnector` takes it.
    """

    def __init__(self, base: str, ssl: Any) -> None:
        connector = (
            aiohttp.UnixConnector(base.removeprefix("unix:"), limit=0)
            if base.startswith("unix:")
            else aiohttp.TCPConnector(limit=0, ssl=ssl)
        )
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        )

    async def close(self) -> None:
        """End all of them."""
        await self._session.close()

    async def request(
        self, method: str, url: str, *, body: Any, headers: dict[str, str], params: dict[str, str] | None
    ) -> tuple[int, bytes]:
        """Make one request; return status and body.

        Raises:
            NotReached: If nobody took it.
            OSError: If there is no answer: why.
        """
        if isinstance(body, bytes) and len(body) > LARGE_BODY_BYTES:
            body = io.BytesIO(body)
        try:
            async with self._session.request(method, url, data=body, headers=headers, params=params) as response:
                return response.status, await response.read()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as exc:
            raise NotReached(_reason(exc)) from None
        except aiohttp.ClientError as exc:
            raise OSError(_reason(exc)) from None

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, *, headers: dict[str, str], params: dict[str, str] | None = None, silence_s: float
    ) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """Make one request; its status, and its body in pieces as they come.

        Args:
            silence_s: A body that brings nothing for so long has broken off.

        Raises:
            ServiceAway: If there is no answer, or it breaks off.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)
        try:
            async with self._session.request(method, url, headers=headers, params=params, timeout=timeout) as response:
                yield response.status, response.content.iter_any()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise ServiceAway(f"the stream broke off: {exc}") from None


def _reason(exc: aiohttp.ClientError) -> str:
    """Return why there is no answer, without the library's own words round the system's."""
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return exc.os_error.strerror or str(exc)
    if isinstance(exc, aiohttp.ClientConnectorError) and not isinstance(exc, aiohttp.ClientSSLError):
        return os.strerror(exc.os_error.errno) if exc.os_error.errno else str(exc)
    return str(exc)
