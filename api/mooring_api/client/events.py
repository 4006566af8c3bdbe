"""The client's verbs of events: pages, and streams that resume by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
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

    def _selected(
        self,
        connection: int | str | None,
        worker: str | None,
        connections: Sequence[int | str],
        workers: Sequence[str],
        kinds: Sequence[str],
        scope: str | None,
    ) -> tuple[str, dict[str, str]]:
        """Return where the events are that are meant, and which of them.

        Raises:
            ValueError: If nothing at the service selects like that.
        """
        path = "/v1/events"
        if connection is not None:
            if worker is not None or connections or workers:
                raise ValueError("of one connection's events nothing but kinds can be left out")
            path = f"{path_of(connection)}/events"
        elif worker is not None:
            if workers:
                raise ValueError("give worker or workers, not both")
            path = f"/v1/workers/{quote(worker, safe='')}/events"
        if scope is not None and len(self._addresses) > 1:
            # At the next address these ids mean nothing: it would begin with a gap, and tell another node's events.
            raise ValueError("scope: one service's own events are asked for at its own address, not at one of several")
        given = {
            "connection": ",".join(map(str, connections)),
            "worker": ",".join(workers),
            "kind": ",".join(kinds),
            "scope": scope,
        }
        return path, {name: value for name, value in given.items() if value}

    async def page(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        connections: Iterable[int | str] = (),
        workers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        scope: str | None = None,
        after: str | None = None,
        limit: int = 100,
        wait_s: float = 0,
    ) -> Page:
        """Return one page of events; with `wait_s` it waits so long for the first. The rest as of `events`."""
        path, params = self._selected(connection, worker, tuple(connections), tuple(workers), tuple(kinds), scope)
        params["limit"] = str(limit)
        if after is not None:
            params["after"] = after
        if wait_s:
            params["wait"] = str(wait_s)
        return await self._page(path, params)

    async def _page(self, path: str, params: dict[str, str]) -> Page:
        return await self._json(Page, "GET", path, params=params, headers={"Accept": "application/json"})

    async def events(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        connections: Iterable[int | str] = (),
        workers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        scope: str | None = None,
        after: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield events, each once, in order; it resumes by itself after a break or a restart of the service.

        Ends when the stream of one connection ends. What has been lost, if anything, is told by a `gap` event.

        Args:
            connection: One connection's events; from its start, unless `after` says otherwise. A name means the connection that has it
                when this begins.
            worker: One worker's events; from now.
            connections: Only of these, beside `worker` or `workers`; from now, and without an end. Empty: of all.
            workers: Only of these. Empty: of all.
            kinds: Only these kinds; empty: all.
            scope: ``"node"``: the service's own events, under its own ids; None: in a cluster those of all nodes.
            after: An event's id, ``"start"`` or ``"now"``.

        Raises:
            ValueError: If `connection` is given with another filter than `kinds`, `worker` with `workers`, or `scope` to a client of
                several addresses.
            ApiError: If the stream is refused (401, 404, …).
            ServiceAway: If no service answers at the beginning; later breaks are bridged.
        """
        async for event, _ in self.raw_events(
            connection=connection,
            worker=worker,
            connections=connections,
            workers=workers,
            kinds=kinds,
            scope=scope,
            after=after,
        ):
            yield event

    async def raw_events(
        self,
        *,
        connection: int | str | None = None,
        worker: str | None = None,
        connections: Iterable[int | str] = (),
        workers: Iterable[str] = (),
        kinds: Iterable[str] = (),
        scope: str | None = None,
        after: str | None = None,
    ) -> AsyncIterator[tuple[Event, bytes]]:
        """As `events`, with the JSON of each as it came."""
        # What names mean now: later, when the stream is taken up again, other connections may have them.
        if isinstance(connection, str):
            connection = await self._id_of(connection)
        ids = [await self._id_of(one) if isinstance(one, str) else one for one in connections]
        path, params = self._selected(connection, worker, ids, tuple(workers), tuple(kinds), scope)
        cursor = after
        if cursor == "now" or (cursor is None and connection is None):
            # "From now" must mean the moment of this call, also if the first attempt breaks before an event comes.
            cursor = (await self._page(path, {**params, "after": "now", "limit": "1"})).next
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
                if connection is not None and await self._ended(path, params, cursor):
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

    async def _id_of(self, name: str) -> int:
        return (await self._json(ConnectionRecord, "GET", path_of(name))).id

    async def _ended(self, path: str, params: dict[str, str], cursor: str | None) -> bool:
        """Tell a connection's stream that has ended with it from one that a stopping service has ended."""
        behind = {} if cursor is None else {"after": cursor}
        page = await self._page(path, {**params, **behind, "limit": "1"})
        if page.events:
            return False
        # The page's cursor has passed what the filter leaves out.
        headers = {**self._authorization(), "Accept": "application/x-ndjson", "Last-Event-ID": page.next}
        async with self._open_session().stream(
            "GET", self._full(path), params=params, headers=headers, silence_s=SILENCE_S
        ) as (status, chunks):
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
