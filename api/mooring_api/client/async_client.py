"""The asynchronous client of the REST API: typed, every verb; those of one resource in a file each.

The command line and the tests use it. Records are the Structs of `mooring_service.records`; events are `Event`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import aiohttp

from mooring_api.client.answers import ServiceAway
from mooring_api.client.connections import ConnectionVerbs
from mooring_api.client.events import EventVerbs
from mooring_api.client.transport import error_of
from mooring_api.client.workers import WorkerVerbs


class Client(ConnectionVerbs, WorkerVerbs, EventVerbs):
    """One service, asynchronously. Use it as ``async with Client(…) as client``.

    Args:
        url: Of the service; None: as the state directory says.
        token: None: as the state directory says.
        state_dir: Where address and token are found; None: the default one.
        ssl: A context for a service with a private certificate.

    Raises:
        ServiceAway: If the state directory names no address.
    """

    async def backup(self) -> AsyncIterator[bytes]:
        """Yield a consistent copy of the journal, in pieces."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=600)
        try:
            async with self._open_session().post(
                self._full("/v1/backup"), headers=self._authorization(), timeout=timeout
            ) as response:
                if response.status != 200:
                    raise error_of(response.status, await response.read())
                async for chunk in response.content.iter_chunked(1024 * 1024):
                    yield chunk
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as exc:
            raise ServiceAway(f"the copy broke off: {exc}") from None
