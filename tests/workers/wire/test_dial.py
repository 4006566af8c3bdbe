"""The dial: where it goes, and that nothing is left of one that failed."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest

from mooring.dial_options import DialSettings, TlsRequest
from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire import connect
from mooring.wire.dial import DialFailed
from mooring.wire.egress import EgressPolicy
from tests.certificates import Files, server_context
from tests.conftest import wait_for
from tests.proxies import free_port
from tests.servers import EchoServer, RawServer, accept_key
from tests.workers.wire.conftest import Run
from tests.workers.wire.peers import a_dialler, accepts, dial, failure, is_silent, stood_still


class Row(NamedTuple):
    host: str
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


# Where it goes.

REFUSED = [
    Row("127.0.0.1", deny=("127.0.0.0/8",)),
    Row("127.1", deny=("127.0.0.0/8",)),
    Row("0x7f.1", deny=("127.0.0.0/8",)),
    Row("2130706433", deny=("127.0.0.0/8",)),
    Row("[::ffff:127.0.0.1]", deny=("127.0.0.0/8",)),
    Row("localhost", deny=("127.0.0.0/8", "::1")),
    Row("localhost", deny=("localhost",)),
    Row("LOCALHOST", deny=("localhost",)),
    Row("ｌｏｃａｌｈｏｓｔ", deny=("localhost",)),
    Row("ⓛocalhost", deny=("localhost",)),
    Row("localhost", allow=("example.com",)),
    Row("ｌocalhost", allow=("example.com", "10.0.0.0/8")),
    Row("①②⑦.⓪.⓪.①", deny=("127.0.0.1",)),
    # The table, without any configuration.
    Row("0.0.0.0"),
    Row("[::]"),
    Row("169.254.169.254"),
    Row("0xa9fea9fe"),
    Row("[::ffff:169.254.169.254]"),
    Row("[::169.254.169.254]"),
    Row("[64:ff9b::a9fe:a9fe]"),
    Row("[2002:a9fe:a9fe::1]"),
    Row("[fe80::1%25lo]"),
    Row("[fd00:ec2::254]"),
    Row("100.100.100.200"),
    Row("192.0.0.192"),
    Row("[fd20:ce::254]"),
    Row("168.63.129.16"),
    Row("224.0.0.1"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row.host} deny {row.deny} allow {row.allow}")
async def test_every_spelling_of_what_is_denied_is_refused_before_a_packet_leaves(row: Row, echo: EchoServer) -> None:
    async with a_dialler(EgressPolicy(row.allow, row.deny)) as dialler:
        with pytest.raises(DialFailed) as failed:
            await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
    assert failed.value.errors[0].err_code == ErrCode.POLICY_REFUSED, failed.value
    assert failed.value.policy
    assert echo.peers == []


@pytest.mark.parametrize(
    "row",
    [
        Row("localhost", allow=("localhost",)),
        Row("ｌｏｃａｌｈｏｓｔ", allow=("*",)),
        Row("127.0.0.1", allow=("127.0.0.1",)),
    ],
    ids=lambda row: row.host,
)
async def test_what_is_allowed_is_dialled(row: Row, echo: EchoServer) -> None:
    async with a_dialler(EgressPolicy(row.allow, row.deny)) as dialler:
        dialled = await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
        dialled.transport.abort()
    assert len(echo.peers) == 1


@pytest.mark.parametrize(
    "host", ["a\u200b..b", "a..b", "xn--a", "\u0378.example", "a" * 64, "[fe80::1%25nowhere]", "a%25b"]
)
async def test_a_name_that_is_none_is_not_resolved(host: str) -> None:
    failed = await failure(dial(f"ws://{host}/?token=secret"))
    assert failed.errors[0].err_code == ErrCode.NAME_NOT_RESOLVED
    assert "secret" not in str(failed.errors)


async def test_of_several_addresses_those_that_are_denied_are_not_dialled() -> None:
    async with RawServer(accepts, host="127.0.0.2", port=free_port()) as denied, RawServer(accepts) as server:
        settings = DialSettings(hosts={"Two.test": ["127.0.0.2", "127.0.0.1"]})
        async with a_dialler(EgressPolicy(deny=["127.0.0.2"]), settings=settings) as dialler:
            (await dialler.dial(ConnectionOptions(url=f"ws://two.test.:{server.port}/"))).transport.abort()
            with pytest.raises(DialFailed) as failed:
                await dialler.dial(ConnectionOptions(url=f"ws://two.test:{denied.port}/"))
            assert failed.value.errors[0].err_code == ErrCode.REFUSED, "of the address that may be dialled"
    assert denied.connections == []


async def test_addresses_stand_for_the_name_and_are_judged_by_the_policy() -> None:
    async with RawServer(accepts) as server:
        url = f"ws://feed.test:{server.port}/"
        (await dial(url, addresses=["127.0.0.1"])).transport.abort()
        assert server.connections[0].headers["host"] == f"feed.test:{server.port}"
        failed = await failure(dial(url, addresses=["169.254.169.254"]))
        assert failed.policy


async def test_the_first_address_that_answers_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect, "HAPPY_EYEBALLS_S", 3600)  # one that refuses is not waited for
    async with RawServer(accepts) as server:
        way = {"addresses": ["::1", "127.0.0.3", "127.0.0.1"], "connect_timeout_s": 60}
        (await dial(f"ws://feed.test:{server.port}/", **way)).transport.abort()


@pytest.mark.parametrize(("family", "host"), [("ipv4", "127.0.0.1"), ("ipv6", "::1")])
async def test_a_family_is_the_only_one_that_is_dialled(family: Any, host: str) -> None:
    settings = DialSettings(hosts={"both.test": ["127.0.0.1", "::1"]})
    async with RawServer(accepts, host=host) as server:
        (await dial(f"ws://both.test:{server.port}/", family=family, settings=settings)).transport.abort()
        other = "127.0.0.1" if family == "ipv6" else "[::1]"
        failed = await failure(dial(f"ws://{other}:{server.port}/", family=family))
        assert failed.errors[0].err_code == ErrCode.UNREACHABLE
        assert f"no IP{family[2:]}" in failed.errors[0].message


async def test_the_local_address_is_what_the_server_sees() -> None:
    async with RawServer(accepts) as server:
        (await dial(server.url, local_address="127.0.0.2")).transport.abort()
        assert server.connections[0].writer.get_extra_info("peername")[0] == "127.0.0.2"
        failed = await failure(dial(server.url, local_address="192.0.2.1"))
        assert failed.errors[0].err_code == ErrCode.UNREACHABLE
        assert (await failure(dial(server.url, local_address="::1"))).errors[0].err_code == ErrCode.UNREACHABLE


async def test_nobody_there_is_refused_and_named() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        for host in ("127.0.0.1", "localhost", "[::1]"):
            failed = await failure(dial(f"ws://{host}:{port}/?token=secret"))
            assert failed.errors[0].err_code == ErrCode.REFUSED
            assert failed.errors[0].message == f"{host}:{port} refused the connection"
            assert "secret" not in str(failed.errors)


# Nothing is left of a dial that ends in the middle.


@asynccontextmanager
async def full_backlog() -> AsyncIterator[str]:
    """A listener that completes no further handshake of TCP."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        try:
            yield f"ws://127.0.0.1:{port}/"
        finally:
            for filler in fillers:
                filler.close()


def test_a_dial_that_is_not_answered_ends_at_its_deadline_in_every_step(run: Run, files: Files, stuck: Stuck) -> None:
    async def scenario() -> None:
        async with RawServer(is_silent) as silent, RawServer(is_silent, early=True) as deaf, full_backlog() as full:
            secure = deaf.url.replace("ws://", "wss://")
            for url in ("ws://hole.test/", full, secure, silent.url):
                begun = time.monotonic()
                failed = await failure(dial(url, connect_timeout_s=0.3))
                assert 0.2 < time.monotonic() - begun < 30, url
                assert (failed.errors[0].err_code, failed.timed_out) == (ErrCode.CONNECT_TIMEOUT, True)

    run(scenario())


def test_a_dial_may_be_cancelled_after_any_pass_of_the_loop(run: Run, files: Files) -> None:
    async def scenario() -> None:
        async with RawServer(accepts) as plain, RawServer(accepts, tls=server_context(files)) as secure:
            settings = DialSettings(hosts={"both.test": ["::1", "127.0.0.1", "127.0.0.3"]})
            async with a_dialler(settings=settings) as dialler:
                for url in (
                    plain.url, secure.url, f"ws://localhost:{plain.port}/", f"ws://both.test:{plain.port}/"
                ):  # fmt: skip
                    opened = 0
                    for passes in range(80):
                        options = ConnectionOptions(url=url, tls=TlsRequest(ca_file=files.ca))
                        task = asyncio.create_task(dialler.dial(options))
                        for _ in range(passes):
                            await asyncio.sleep(0)
                        task.cancel()
                        try:
                            (await task).transport.abort()
                            opened += 1
                        except asyncio.CancelledError:
                            pass
                    assert opened < 80
            await wait_for(
                lambda: all(each.writer.transport.is_closing() for each in plain.connections + secure.connections)
            )

    run(scenario())


# Names.


class Stuck:
    """Has the system's resolver not answer for ``hole…`` until `released` is set; `asked` is how often it was asked for one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released = threading.Event()
        self.asked: list[str] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).startswith("hole") and not kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            self.asked.append(host)
            self.released.wait(100)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return self._real(host, *args, **kwargs)


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stuck]:
    found = Stuck(monkeypatch)
    yield found
    found.released.set()


async def test_names_that_nobody_answers_for_hold_up_nobody_else(stuck: Stuck) -> None:
    async with RawServer(accepts) as server, a_dialler() as dialler:
        dialling = [
            asyncio.create_task(dialler.dial(ConnectionOptions(url=f"ws://hole{n}.test/", connect_timeout_s=3600)))
            for n in range(200)
        ]
        await wait_for(lambda: len(stuck.asked) == 200)
        options = ConnectionOptions(url=f"ws://localhost:{server.port}/", connect_timeout_s=60)
        (await dialler.dial(options)).transport.abort()
        assert not any(task.done() for task in dialling)
        for task in dialling:
            task.cancel()
        await asyncio.gather(*dialling, return_exceptions=True)
    stuck.released.set()
    await wait_for(lambda: not any(thread.name == "mooring dial" for thread in threading.enumerate()))


async def test_a_machine_without_another_thread_fails_the_dial_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    failed = await failure(dial("ws://nowhere.test/?token=s3cr3t"))
    assert failed.errors[0].err_code == ErrCode.UNREACHABLE
    assert failed.errors[1].message == "RuntimeError"
    assert "can't start new thread" in caplog.text
    assert "s3cr3t" not in caplog.text + str(failed.errors)


async def test_a_machine_without_another_descriptor_fails_the_dial_and_not_the_worker() -> None:
    import resource

    async with RawServer(accepts) as server, a_dialler() as dialler:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        next_one = os.dup(0)
        os.close(next_one)
        resource.setrlimit(resource.RLIMIT_NOFILE, (next_one, hard))
        try:
            with pytest.raises(DialFailed) as failed:
                await dialler.dial(ConnectionOptions(url=server.url))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert failed.value.errors[0].err_code == ErrCode.UNREACHABLE
        (await dialler.dial(ConnectionOptions(url=server.url))).transport.abort()


async def test_tls_files_are_read_once_for_dials_that_come_together(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    real = ssl.create_default_context

    def create(*args: Any, **kwargs: Any) -> ssl.SSLContext:
        made.append(kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(ssl, "create_default_context", create)
    async with RawServer(accepts, tls=server_context(files)) as server, a_dialler() as dialler:
        made.clear()
        options = ConnectionOptions(url=server.url, tls=TlsRequest(ca_file=files.ca))
        for dialled in await asyncio.gather(*(dialler.dial(options) for _ in range(20))):
            dialled.transport.abort()
        assert len(made) == 1


async def test_an_answer_that_came_while_we_stood_still_opens_the_connection() -> None:
    asked, asleep, answered = threading.Event(), threading.Event(), threading.Event()

    def serve(listener: socket.socket) -> None:
        peer, _ = listener.accept()
        with peer:
            head = b""
            while b"\r\n\r\n" not in head:
                head += peer.recv(65_536)
            (key,) = re.findall(rb"(?i)sec-websocket-key: (\S+)", head)
            asked.set()
            asleep.wait(60)
            accept = accept_key(key.decode())
            peer.sendall(
                b"HTTP/1.1 101 OK\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                + f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
            )
            answered.set()
            peer.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        url = f"ws://127.0.0.1:{listener.getsockname()[1]}/"
        async with a_dialler() as dialler:
            dialling = asyncio.create_task(dialler.dial(ConnectionOptions(url=url, connect_timeout_s=60)))
            await wait_for(asked.is_set)
            asleep.set()
            assert answered.wait(60)  # in the loop: it does not look
            stood_still(61)  # its time is over, and it does not know yet
            (await dialling).transport.abort()
        await serving
