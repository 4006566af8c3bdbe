"""The client's verbs of events: pages, and streams that resume by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from urllib.parse import quote

from mooring_api.client.answers import ApiError, Event, Page, ServiceAway
from mooring_api.client.connections import path_of
from mooring_api.client.transport import Transport, decode, error_of
from mooring_service.records import ConnectionRecord

RETRY_MIN_S = 0.2
RETRY_MAX_S = 5.0
SILENCE_S = 45.0  # three keep-alives: a stream that is silent for longer is dead


class EventVerbs(Transport):
    """Page and stream."""

    @staticmethod
    def _events_path(connection: int | str | None, worker: str | None) -> tuple[str, dict[str, str]]:
        if connection is not None:
            return f"{path_of(connection)}/events", {}
        if worker is not None:
            return f"/v1/workers/{quote(worker, safe='')}/events", {}
        return "/v1/events", {}

    async def page(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
        limit: int = 100,
        wait_s: float = 0,
    ) -> Page:
        """Return one page of events; with `wait_s` it waits so long for the first."""
        path, params = self._events_path(connection, worker)
        params |= {"limit": str(limit)}
        if kinds:
            params["kind"] = ",".join(kinds)
        if after is not None:
            params["after"] = after
        if wait_s:
            params["wait"] = str(wait_s)
        return await self._json(Page, "GET", path, params=params, headers={"Accept": "application/json"})

    async def events(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield events, each once, in order; it resumes by itself after a break or a restart of the service.

        Ends when the stream of one connection ends. What has been lost, if anything, is told by a `gap` event.

        Args:
            connection: One connection's events; from its start, unless `after` says otherwise. A name means the connection that has it
                when this begins.
            worker: One worker's events; from now.
            kinds: Only these kinds; empty: all.
            after: An event's id, ``"start"`` or ``"now"``.

        Raises:
            ApiError: If the stream is refused (401, 404, …).
            ServiceAway: If no service answers at the beginning; later breaks are bridged.
        """
        async for event, _ in self.raw_events(connection=connection, worker=worker, kinds=kinds, after=after):
            yield event

    async def raw_events(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
    ) -> AsyncIterator[tuple[Event, bytes]]:
        """As `events`, with the JSON of each as it came."""
        if isinstance(connection, str):
            # What the name means now: later, when the stream is taken up again, another connection may have it.
            connection = (await self._json(ConnectionRecord, "GET", path_of(connection))).id
        path, params = self._events_path(connection, worker)
        kinds = tuple(kinds)  # they are looked at more than once
        if kinds:
            params["kind"] = ",".join(kinds)
        cursor = after
        if cursor == "now" or (cursor is None and connection is None):
            # "From now" must mean the moment of this call, also if the first attempt breaks before an event comes.
            cursor = (await self.page(connection=connection, worker=worker, after="now", limit=1)).next
        elif connection is not None:
            await self.request("GET", path_of(connection))  # nobody waits for a service that was never there
        delay_s = RETRY_MIN_S
        while True:
            asked = self.url
            try:
                async for line in self._lines(path, params, cursor):
                    event = decode(line, Event)
                    cursor = event.id
                    delay_s = RETRY_MIN_S
                    yield event, line
                if connection is not None and await self._ended(connection, kinds, cursor):
                    return
            except ServiceAway:
                pass
            except ApiError as exc:
                if exc.status not in (502, 503, 504):
                    raise
            import asyncio  # takes longer than what a plain command asks for

            await asyncio.sleep(delay_s)
            delay_s = min(RETRY_MAX_S, delay_s * 2)
            self._locate_again(asked)

    async def _ended(self, connection: int, kinds: Iterable[str], cursor: str | None) -> bool:
        """Tell a stream that has ended with its connection from one that a stopping service has ended."""
        page = await self.page(connection=connection, kinds=kinds, after=cursor, limit=1)
        if page.events:
            return False
        # The page's cursor has passed what the filter leaves out.
        headers = {**self._authorization(), "Accept": "application/x-ndjson", "Last-Event-ID": page.next}
        url = self._full(f"{path_of(connection)}/events")
        async with self._open_session().stream("GET", url, headers=headers, silence_s=SILENCE_S) as (status, chunks):
            if status >= 400:
                raise error_of(status, await _whole(chunks))
            return status == 204

    async def _lines(self, path: str, params: dict[str, str], cursor: str | None) -> AsyncIterator[bytes]:
        headers = {**self._authorization(), "Accept": "text/event-stream"}
        if cursor is not None:
            headers["Last-Event-ID"] = cursor
        async with self._open_session().stream(
            "GET", self._full(path), params=params, headers=headers, silence_s=SILENCE_S
        ) as (status, chunks):
            if status >= 400:
                raise error_of(status, await _whole(chunks))
            async for line in lines_of(chunks):
                if line.startswith(b"data: "):
                    yield line[6:]


async def _whole(chunks: AsyncIterator[bytes]) -> bytes:
    return b"".join([chunk async for chunk in chunks])


async def lines_of(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield each line that has ended; its pieces are joined once, in however many chunks it comes."""
    pieces: list[bytes] = []
    async for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        if ended:
            pieces.append(ended[0])
            yield b"".join(pieces)
            for line in ended[1:]:
                yield line
            pieces = []
        pieces.append(rest)
