"""The asynchronous client of the REST API: typed, every verb.

The command line and the tests use it. Records are the Structs of `mooring_service.records`; events are `Event`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from mooring import json_text
from mooring_service.records import ConnectionRecord, Killed, SentRecord, WorkerRecord

RETRY_MIN_S = 0.2
RETRY_MAX_S = 5.0
SILENCE_S = 45.0  # three keep-alives: a stream that is silent for longer is dead

Result = TypeVar("Result")


class ApiError(Exception):
    """An answer that is a problem (RFC 9457); its members are attributes, `extra` holds those of its type."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.errors: list[dict[str, Any]] = problem.get("errors", [])
        self.extra = {
            name: value
            for name, value in problem.items()
            if name not in ("type", "title", "status", "detail", "errors")
        }

    def __str__(self) -> str:
        return self.detail or self.title or f"status {self.status}"


class ServiceAway(Exception):
    """No service answers at the address."""


class Event(msgspec.Struct, frozen=True):
    """One event; `event` is 4D's ``$2`` object, `raw` the JSON as it came."""

    id: str
    kind: str
    time: str
    event: dict[str, Any]
    connection: int | None = None
    worker: str | None = None
    seq: int | None = None


class Page(msgspec.Struct, frozen=True):
    """A page of events; `next` is the cursor of the next one."""

    events: list[Event]
    next: str


class ConnectionPage(msgspec.Struct, frozen=True):
    """A page of records; `next` is the ``after`` of the next one, None at the end."""

    connections: list[ConnectionRecord]
    next: int | None


class _Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerRecord]


def default_state_dir() -> Path:
    """Return where the state is kept unless told otherwise."""
    if "MOORING_STATE_DIR" in os.environ:
        return Path(os.environ["MOORING_STATE_DIR"])
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "mooring"


class Client:
    """One service, asynchronously. Use it as ``async with Client(…) as client``.

    Args:
        url: Of the service; None: as the state directory says.
        token: None: as the state directory says.
        state_dir: Where address and token are found; None: the default one.
        ssl: A context for a service with a private certificate.

    Raises:
        ServiceAway: If the state directory names no address.
    """

    def __init__(
        self, url: str | None = None, token: str | None = None, *, state_dir: Path | None = None, ssl: Any = True
    ) -> None:
        state_dir = state_dir or default_state_dir()
        self._url = url or os.environ.get("MOORING_URL")
        self._given_url = self._url
        self._given_token = token or os.environ.get("MOORING_TOKEN")
        self._state_dir = state_dir
        self._ssl = ssl
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._locate()

    def _locate(self) -> None:
        """Find address and token; again after a restart, which may have changed the port."""
        if self._given_url is None:
            try:
                self._url = (self._state_dir / "address").read_text().strip()
            except OSError:
                raise ServiceAway(
                    f"no service has its state in {self._state_dir}; start one with `mooring serve`, or name it with --url"
                ) from None
        if self._given_token is None:
            try:
                self._token = (self._state_dir / "token").read_text().strip()
            except OSError:
                self._token = ""
        else:
            self._token = self._given_token
        assert self._url is not None, "given or found"
        self._url = self._url.rstrip("/")
        if not self._url.startswith(("http://", "https://", "unix:")):
            raise ServiceAway(f"{self._url!r} is no address of a service: http://…, https://… or unix:PATH")

    def _locate_again(self) -> None:
        """After a break: the service may be back elsewhere, for the next try."""
        with contextlib.suppress(ServiceAway):
            self._locate()

    async def __aenter__(self) -> Self:
        connector = None
        if self._url is not None and self._url.startswith("unix:"):
            connector = aiohttp.UnixConnector(self._url[5:], limit=0)
        self._session = aiohttp.ClientSession(
            connector=connector or aiohttp.TCPConnector(limit=0, ssl=self._ssl),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._url or ""

    def _full(self, path: str) -> str:
        base = self.url
        return ("http://localhost" if base.startswith("unix:") else base) + path

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Make one request; return status and body.

        Raises:
            ApiError: If the answer is a problem.
            ServiceAway: If there is no answer.
        """
        assert self._session is not None, "use the client in `async with`"
        all_headers = {"Authorization": f"Bearer {self._token}", **(headers or {})}
        if content_type is not None:
            all_headers["Content-Type"] = content_type
        try:
            async with self._session.request(
                method, self._full(path), data=body, headers=all_headers, params=params
            ) as response:
                data = await response.read()
        except (aiohttp.ClientError, OSError) as exc:
            away = ServiceAway(f"no service answers at {self.url}: {_reason(exc)}")
            self._locate_again()
            raise away from None
        if response.status >= 400:
            raise _error(response.status, data)
        return response.status, data

    async def _json(self, kind: type[Result], method: str, path: str, **kwargs: Any) -> Result:
        _, data = await self.request(method, path, **kwargs)
        return _decode(data, kind)

    # connections

    async def open(
        self, url: str, *, wait: bool = True, idempotency_key: str | None = None, **options: Any
    ) -> ConnectionRecord:
        """Open a connection; `options` are the other keys of the create body, in camelCase.

        With `wait` false it returns at once, status Connecting.
        """
        headers = {} if wait else {"Prefer": "respond-async"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        body = msgspec.json.encode({"url": url, **options})
        return await self._json(
            ConnectionRecord, "POST", "/v1/connections", body=body, content_type="application/json", headers=headers
        )

    async def connections(
        self, *, worker: str | None = None, status: str | None = None, after: int = 0, limit: int = 1000
    ) -> ConnectionPage:
        """Return a page of connections, by id."""
        params = {"after": str(after), "limit": str(limit)}
        if worker is not None:
            params["worker"] = worker
        if status is not None:
            params["status"] = status
        return await self._json(ConnectionPage, "GET", "/v1/connections", params=params)

    async def connection(self, connection: int) -> ConnectionRecord:
        """Return one connection."""
        return await self._json(ConnectionRecord, "GET", f"/v1/connections/{connection}")

    async def send(
        self, connection: int, message: str | bytes | dict[str, Any] | list[Any], *, idempotency_key: str | None = None
    ) -> SentRecord:
        """Send text, a blob, or an object, by the type of `message`."""
        if isinstance(message, str):
            body, kind = message.encode(), "text/plain"
        elif isinstance(message, bytes):
            body, kind = message, "application/octet-stream"
        else:
            body, kind = json_text.encode(message), "application/json"
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key is not None else None
        return await self.send_body(connection, body, kind, headers=headers)

    async def send_body(
        self, connection: int, body: Any, content_type: str, *, headers: dict[str, str] | None = None
    ) -> SentRecord:
        """Send a body as it is; an async iterable of bytes is streamed."""
        return await self._json(
            SentRecord,
            "POST",
            f"/v1/connections/{connection}/messages",
            body=body,
            content_type=content_type,
            headers=headers,
        )

    async def send_lines(self, connection: int, lines: AsyncIterator[bytes]) -> SentRecord:
        """Send JSON values, one a line, as they come."""
        return await self.send_body(connection, lines, "application/x-ndjson")

    async def terminate(self, connection: int, code: int | None = None, reason: str | None = None) -> ConnectionRecord:
        """Close a connection and return its final record."""
        params = {}
        if code is not None:
            params["code"] = str(code)
        if reason is not None:
            params["reason"] = reason
        return await self._json(ConnectionRecord, "DELETE", f"/v1/connections/{connection}", params=params)

    # workers

    async def workers(self) -> list[WorkerRecord]:
        """Return all workers."""
        return (await self._json(_Workers, "GET", "/v1/workers")).workers

    async def worker(self, name: str) -> WorkerRecord:
        """Return one worker."""
        return await self._json(WorkerRecord, "GET", f"/v1/workers/{quote(name, safe='')}")

    async def start_worker(self, name: str) -> WorkerRecord:
        """Have a worker Running."""
        return await self._json(WorkerRecord, "PUT", f"/v1/workers/{quote(name, safe='')}")

    async def kill_worker(self, name: str) -> Killed:
        """End a worker for good."""
        return await self._json(Killed, "DELETE", f"/v1/workers/{quote(name, safe='')}")

    async def drain_worker(self, name: str) -> WorkerRecord:
        """Let a worker take no new connections, and restart when the last one has ended."""
        return await self._json(WorkerRecord, "POST", f"/v1/workers/{quote(name, safe='')}/drain")

    async def call(
        self,
        worker: str,
        function: str,
        params: dict[str, Any] | list[Any] | None = None,
        *,
        wait: bool = True,
        idempotency_key: str | None = None,
    ) -> Any:
        """Run a function in a worker's context and return its result (None with `wait` false)."""
        headers = {} if wait else {"Prefer": "respond-async"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = idempotency_key
        body = msgspec.json.encode({"function": function, "params": params if params is not None else {}})
        _, data = await self.request(
            "POST",
            f"/v1/workers/{quote(worker, safe='')}/calls",
            body=body,
            content_type="application/json",
            headers=headers,
        )
        return msgspec.json.decode(data).get("result")

    # events

    async def backup(self) -> AsyncIterator[bytes]:
        """Yield a consistent copy of the journal, in pieces."""
        timeout = aiohttp.ClientTimeout(total=None, sock_read=600)
        try:
            assert self._session is not None, "use it as a context manager"
            headers = {"Authorization": f"Bearer {self._token}"}
            async with self._session.post(self._full("/v1/backup"), headers=headers, timeout=timeout) as response:
                if response.status != 200:
                    raise _error(response.status, await response.read())
                async for chunk in response.content.iter_chunked(1024 * 1024):
                    yield chunk
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as exc:
            raise ServiceAway(f"the copy broke off: {exc}") from None

    @staticmethod
    def _events_path(connection: int | None, worker: str | None) -> tuple[str, dict[str, str]]:
        if connection is not None:
            return f"/v1/connections/{connection}/events", {}
        if worker is not None:
            return f"/v1/workers/{quote(worker, safe='')}/events", {}
        return "/v1/events", {}

    async def page(
        self,
        *,
        connection: int | None = None,
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
        connection: int | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
    ) -> AsyncIterator[Event]:
        """Yield events, each once, in order; it resumes by itself after a break or a restart of the service.

        Ends when the stream of one connection ends. What has been lost, if anything, is told by a `gap` event.

        Args:
            connection: One connection's events; from its start, unless `after` says otherwise.
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
        connection: int | None = None,
        worker: str | None = None,
        kinds: Iterable[str] = (),
        after: str | None = None,
    ) -> AsyncIterator[tuple[Event, bytes]]:
        """As `events`, with the JSON of each as it came."""
        path, params = self._events_path(connection, worker)
        if kinds:
            params["kind"] = ",".join(kinds)
        kinds = tuple(kinds)
        cursor = after
        if cursor == "now" or (cursor is None and connection is None):
            # "From now" must mean the moment of this call, also if the first attempt breaks before an event comes.
            cursor = (await self.page(connection=connection, worker=worker, after="now", limit=1)).next
        elif connection is not None:
            await self.connection(connection)  # nobody waits for a service that was never there
        delay_s = RETRY_MIN_S
        while True:
            try:
                async for line in self._lines(path, params, cursor):
                    event = _decode(line, Event)
                    cursor = event.id
                    delay_s = RETRY_MIN_S
                    yield event, line
                if connection is not None and await self._ended(connection, kinds, cursor):
                    return
            except (ServiceAway, aiohttp.ClientError, OSError, TimeoutError):
                pass
            except ApiError as exc:
                if exc.status not in (502, 503, 504):
                    raise
            await asyncio.sleep(delay_s)
            delay_s = min(RETRY_MAX_S, delay_s * 2)
            self._locate_again()

    async def _ended(self, connection: int, kinds: Iterable[str], cursor: str | None) -> bool:
        """Tell a stream that has ended with its connection from one that a stopping service has ended."""
        page = await self.page(connection=connection, kinds=kinds, after=cursor, limit=1)
        if page.events:
            return False
        # The page's cursor has passed what the filter leaves out.
        headers = {"Accept": "application/x-ndjson", "Last-Event-ID": page.next}
        headers["Authorization"] = f"Bearer {self._token}"
        assert self._session is not None, "use the client in `async with`"
        async with self._session.get(self._full(f"/v1/connections/{connection}/events"), headers=headers) as response:
            if response.status >= 400:
                raise _error(response.status, await response.read())
            return response.status == 204

    async def _lines(self, path: str, params: dict[str, str], cursor: str | None) -> AsyncIterator[bytes]:
        assert self._session is not None, "use the client in `async with`"
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "text/event-stream"}
        if cursor is not None:
            headers["Last-Event-ID"] = cursor
        async with self._session.get(
            self._full(path),
            params=params,
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=SILENCE_S),
        ) as response:
            if response.status >= 400:
                raise _error(response.status, await response.read())
            rest = b""
            async for chunk in response.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: "):
                        yield line[6:]


def _decode(data: bytes, kind: type[Result]) -> Result:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        # Objects of events are passed on as they came: JSON, but not always what msgspec reads.
        return msgspec.convert(json_text.decode(data), kind)


def _reason(exc: Exception) -> str:
    """Return why there is no answer, without the library's own words round the system's."""
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return exc.os_error.strerror or str(exc)
    if isinstance(exc, aiohttp.ClientConnectorError) and not isinstance(exc, aiohttp.ClientSSLError):
        return os.strerror(exc.os_error.errno) if exc.os_error.errno else str(exc)
    return str(exc)


def _error(status: int, data: bytes) -> ApiError:
    try:
        problem = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {"detail": data[:500].decode("utf-8", "replace")}
    return ApiError(status, problem)
