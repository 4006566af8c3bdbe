"""Kept connections over real sockets: silent servers, half-open lines, an end in the middle of each phase, a storm of returns."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.certificates import Files, make_files, server_context
from tests.conftest import RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, ready_again, status_of
from tests.proxies import free_port
from tests.servers import EchoServer, RawConnection, RawServer, frame

AT_ONCE = {"minDelay": 0.05, "maxDelay": 0.2}
SERVICE = ((), {"SSL_CERT_FILE": None})
CONNECT_S = 3.0


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


async def stays(connection: RawConnection) -> None:
    """Accept, and read until the client has gone."""
    await connection.accept()
    await connection.read_close()


async def never_answers(connection: RawConnection) -> None:
    await asyncio.sleep(3600)


async def test_a_server_that_accepts_and_says_nothing_is_a_failed_attempt_after_the_timeout(
    shared: RunningService,
) -> None:  # 18, without opening steps
    silent = False

    async def script(connection: RawConnection) -> None:
        await (never_answers if silent else stays)(connection)

    async with RawServer(script) as server:
        opened = await shared.open(server.url, connectTimeout=CONNECT_S, reconnect=AT_ONCE)
        silent = True
        server.connections[0].reset()

        async def dials() -> bool:
            record = await shared.record(opened["id"])
            assert (record["status"], record["ready"]) == ("Reconnecting", False)
            return bool(record["down"]["phase"] == "dialling")

        await status_of(shared, opened["id"], "Reconnecting")
        await wait_for(dials)
        await wait_for(lambda: len(server.connections) >= 3)  # so one has failed
        silent = False
        events = await shared.events(opened["id"], until="onReconnect")
        assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]
        failed = len(server.connections) - 2
        assert events[2]["event"]["attempts"] == failed + 1 and events[2]["event"]["downMs"] > CONNECT_S * 1000 * failed


class Front:
    """A TCP proxy that can stop to pass anything on, and tell nobody: what a line does whose other side is gone."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.swallows = False
        self.tasks: set[asyncio.Task[None]] = set()
        self.ended: list[bool] = []  # by connection: the client has ended it

    async def __aenter__(self) -> Front:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at, swallowed = len(self.ended), False
        self.ended.append(False)
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)

        async def pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter, *, client: bool) -> None:
            nonlocal swallowed
            try:
                while data := await source.read(65536):
                    swallowed = swallowed or self.swallows
                    if not swallowed:
                        to.write(data)
            except ConnectionError:
                pass
            if client:
                self.ended[at] = True

        passing = [
            asyncio.create_task(pass_on(reader, up_writer, client=True)),
            asyncio.create_task(pass_on(up_reader, writer, client=False)),
        ]
        self.tasks.update(passing)
        try:
            await asyncio.wait(passing, return_when=asyncio.FIRST_COMPLETED)
        finally:
            passing[1].cancel()
            writer.transport.abort()
            up_writer.transport.abort()


async def test_a_half_open_line_is_noticed_by_its_pings_dialled_again_and_let_go(
    shared: RunningService, echo: EchoServer
) -> None:  # 24
    async with Front(echo.port) as front:
        url = f"ws://127.0.0.1:{front.port}/"
        kept = (await shared.open(url, pingInterval=1, pingTimeout=3, connectTimeout=5, reconnect=AT_ONCE))["id"]
        await shared.send(kept, "before")
        await shared.events(kept, count=2)
        front.swallows = True
        began = time.monotonic()
        events = await shared.events(kept, until="onDisconnect")
        took = time.monotonic() - began
        front.swallows = False
        assert took <= 20, f"not as who says none: {took:.1f} s"
        lost = events[-1]["event"]
        assert (lost["cause"], lost["code"], lost["errors"][0]["errCode"]) == ("ping", 1006, 205)
        await shared.events(kept, until="onReconnect")
        await wait_for(lambda: front.ended[0], what="the old socket is gone")
        await shared.send(kept, "after")
        assert (await shared.events(kept, count=5))[-1]["event"]["data"] == "after"


def _full_backlog(port: int) -> list[socket.socket]:
    """Return a listener of `port` whose queue is full, and what fills it: the kernel answers no further SYN."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(0)
    found = [listener]
    for _ in range(8):
        filler = socket.socket()
        filler.setblocking(False)
        filler.connect_ex(("127.0.0.1", port))
        found.append(filler)
    return found


PHASES = {
    "waiting": "waiting",
    "limited": "limited",
    "renewing": "renewing",
    "before TCP": "dialling",
    "in TLS": "dialling",
    "before the 101": "dialling",
    "in the opening": "opening",
}


@pytest.mark.parametrize("where", PHASES)
async def test_terminate_in_each_phase_is_the_end_at_once_and_no_socket_follows(
    start_service: StartService, files: Files, tmp_path: Path, where: str
) -> None:  # 14, over TLS
    service = await start_service(*_limits(tmp_path, where), env={"SSL_CERT_FILE": None})
    async with _ended_in(where, service, files) as (sockets, before):
        await asyncio.sleep(1.5)
        assert sockets() == before, "no socket follows"


@pytest.mark.long
async def test_for_a_minute_no_socket_follows_a_terminate_in_any_phase(
    start_service: StartService, files: Files, tmp_path: Path
) -> None:  # 14, as long as the longest delay
    async with AsyncExitStack() as stack:
        ended = {}
        for where in PHASES:
            options = _limits(tmp_path, where)
            service = await start_service(*options, name=where.replace(" ", "-"), env={"SSL_CERT_FILE": None})
            ended[where] = await stack.enter_async_context(_ended_in(where, service, files))
        await asyncio.sleep(61)
        assert {where: sockets() for where, (sockets, _) in ended.items()} == {
            where: before for where, (_, before) in ended.items()
        }


def _limits(folder: Path, where: str) -> tuple[str, ...]:
    if where != "limited":
        return ()
    config = folder / "mooring.toml"
    config.write_text("[redial]\nrate = 0.01\nburst = 1\n")
    return "--config", str(config)


@asynccontextmanager
async def _ended_in(where: str, service: RunningService, files: Files) -> AsyncIterator[tuple[Callable[[], int], int]]:
    """Terminate a connection in that phase; yields what tells how many TCP connections its server has seen, and how many it had then."""
    context = server_context(files)
    policy = STAYS_DOWN if where == "waiting" else AT_ONCE

    async def greets(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"hello"))
        await connection.read_close()

    async def gives_one_token(connection: RawConnection) -> None:
        if len(tokens.connections) > 1:
            await never_answers(connection)
        body = b'{"token": "t"}'
        connection.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    async with RawServer(gives_one_token) as tokens:
        renew = {"http": {"url": tokens.url.replace("ws:", "http:"), "values": {"token": "/token"}}, "timeout": 60}
        recipe = {
            "renewing": {"recipe": {"renew": renew}},
            "in the opening": {"recipe": {"opening": [{"expect": "hello", "timeout": 60}]}},
        }.get(where, {})
        options = {"tls": {"caFile": files.ca}, "connectTimeout": 60, "closeTimeout": 60, "reconnect": policy, **recipe}
        async with RawServer(greets, tls=context, port=free_port()) as first:
            opened = await service.open(first.url, **options)
        kept = opened["id"]
        async with _second(where, first.port, context) as sockets:

            async def in_phase() -> bool:
                down = (await service.record(kept))["down"]
                at_server = where in ("in TLS", "before the 101", "in the opening")
                return down is not None and down["phase"] == PHASES[where] and (sockets() > 0 or not at_server)

            await wait_for(in_phase, what=f"it is {PHASES[where]}")
            before, began = sockets(), time.monotonic()
            ended = await service.call("DELETE", f"/v1/connections/{kept}")
            assert time.monotonic() - began < 20, "nothing that it waits for is waited for any more: 60 s, each"
            assert (ended["status"], ended["terminate"]["code"], ended["errors"]) == ("Closed", 1006, [])
            kinds = [event["kind"] for event in await service.events(kept, until="onTerminate")]
            assert [kind for kind in kinds if kind != "onMessage"] == ["onOpen", "onDisconnect", "onTerminate"]
            yield sockets, before


@asynccontextmanager
async def _second(where: str, port: int, context: object) -> AsyncIterator[Callable[[], int]]:
    """Be what the second dial meets; yields how many TCP connections came."""
    if where == "before TCP":
        held = _full_backlog(port)
        try:
            yield lambda: 0
        finally:
            for sock in held:
                sock.close()
        return
    script = never_answers if where == "before the 101" else stays
    tls = None if where == "in TLS" else context
    server = RawServer(script if tls else never_answers, port=port, early=tls is None, tls=tls)  # type: ignore[arg-type]
    async with server:
        yield lambda: len(server.connections)


@rounds(40, 1000)
async def test_an_end_and_a_loss_in_the_same_moment_are_one_end(
    shared: RunningService, rounds: int, echo: EchoServer
) -> None:  # 15, over real sockets
    for number in range(rounds):
        kept = (await shared.open(echo.url, reconnect=AT_ONCE))["id"]
        server_side = echo.sockets[-1]
        delay_s = (number % 20) / 2000
        both = [shared.call("DELETE", f"/v1/connections/{kept}"), server_side.close(code=1001)]
        if number % 2:
            both.reverse()
        first = asyncio.ensure_future(both[0])
        await asyncio.sleep(delay_s if number % 3 else 0)
        await asyncio.gather(first, both[1])
        kinds = [event["kind"] for event in await shared.events(kept, until="onTerminate")]
        assert kinds.count("onTerminate") == 1 and kinds[-1] == "onTerminate", (number, kinds)
        assert (await shared.record(kept))["status"] == "Closed"
    seen = len(echo.peers)
    await asyncio.sleep(0.5)
    assert len(echo.peers) == seen, "nobody dials any more"


async def test_each_code_of_a_close_by_the_server_is_one_loss_and_one_return(
    shared: RunningService, echo: EchoServer
) -> None:  # 2, over real sockets
    kept = (await shared.open(echo.url, reconnect=AT_ONCE))["id"]
    codes = [1000, 1001, None, 1011, 1012, 1013]
    for number, code in enumerate(codes, start=2):
        if code is None:
            transport = echo.sockets[-1]._req.transport  # type: ignore[union-attr]
            assert transport is not None
            transport.abort()
        else:
            await echo.sockets[-1].close(code=code)
        await ready_again(shared, kept, number)
    events = await shared.events(kept, count=1 + 2 * len(codes))
    assert [event["kind"] for event in events] == ["onOpen", *["onDisconnect", "onReconnect"] * len(codes)]
    assert [event["event"]["code"] for event in events[1::2]] == [code or 1006 for code in codes]
    assert [event["event"]["socket"] for event in events[2::2]] == list(range(2, len(codes) + 2))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))


async def test_one_that_is_not_kept_has_its_events_and_its_record_byte_for_byte_as_before(
    shared: RunningService,
) -> None:  # 1
    async def script(connection: RawConnection) -> None:
        await connection.accept(after=frame(1, b"one"))
        await asyncio.sleep(0.05)
        connection.reset()

    async with RawServer(script) as server:
        opened = await shared.open(server.url)
        await shared.events(opened["id"], until="onTerminate")
        path = f"/v1/connections/{opened['id']}/events"
        async with shared.client.get(path, headers={"Accept": "application/x-ndjson"}) as response:
            lines = (await response.read()).splitlines()
    bodies = []
    for seq, line in enumerate(lines, start=1):
        head = b'"connection":%d,"worker":"main","seq":%d,"time":"' % (opened["id"], seq)
        kind, _, rest = line.partition(b"," + head)
        bodies.append(kind.split(b",", 1)[1] + b" " + rest.split(b'",', 1)[1])
    closed = b"the connection was reset without a close frame"
    assert bodies == [
        b'"kind":"onOpen" "event":{"type":"open"}}',
        b'"kind":"onMessage" "event":{"type":"message","data":"one"}}',
        b'"kind":"onError" "event":{"type":"error","errors":[{"errCode":204,"message":"%b","componentSignature":"MOOR"}]}}'
        % closed,
        b'"kind":"onTerminate" "event":{"type":"terminate","code":1006,"reason":"%b","wasClean":false}}' % closed,
    ]
    of_kept_ones = {
        "reconnect",
        "ready",
        "socket",
        "reconnects",
        "down",
        "opening",
        "socketOpenedAt",
        "queued",
        "recipe",
        "whenDown",
    }
    assert not of_kept_ones & (await shared.record(opened["id"])).keys()
