"""The asynchronous client of the REST API: typed, every verb; those of one resource in a file each.

The command line and the tests use it. Records are the Structs of `mooring_service.records` and `mooring_service.hook_records`; events are `Event`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from mooring_api.client.cluster import ClusterVerbs
from mooring_api.client.connections import ConnectionVerbs
from mooring_api.client.events import EventVerbs
from mooring_api.client.hooks import HookVerbs
from mooring_api.client.sending import SendingVerbs
from mooring_api.client.transport import error_of
from mooring_api.client.workers import WorkerVerbs

BACKUP_SILENCE_S = 600.0  # a large journal is copied before it is sent


class Client(ConnectionVerbs, SendingVerbs, WorkerVerbs, EventVerbs, HookVerbs, ClusterVerbs):
    """One service, asynchronously. Use it as ``async with Client(…) as client``.

    Args:
        url: Of the service; None: as the state directory says. Several of nodes of one cluster: where one does not answer, the next is
            asked, and streams of events go on there, without losing or repeating one.
        token: None: as the state directory says.
        state_dir: Where address and token are found; None: the default one.
        ssl: A context for a service with a private certificate.
        few: The program makes a few requests and ends: none of them waits for an HTTP library to be imported.
        loop: False: no loop runs, and few requests are made, which block. Coroutines then never wait, and can be run without a loop.

    Raises:
        ServiceAway: If the state directory names no address.
    """

    async def backup(self) -> AsyncIterator[bytes]:
        """Yield a consistent copy of the journal, in pieces."""
        async with self._open_session().stream(
            "POST", self._full("/v1/backup"), headers=self._authorization(), silence_s=BACKUP_SILENCE_S
        ) as (status, chunks):
            if status != 200:
                raise error_of(status, b"".join([chunk async for chunk in chunks]))
            async for chunk in chunks:
                yield chunk
