"""The Python client beyond its verbs: interrupted, misused, far behind; what a type checker knows of it."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from mypy import api as mypy

from mooring_api.client import BlockingClient, Client
from mooring_api.client.events import lines_of
from tests.conftest import ROOT, RunningService
from tests.servers import EchoServer

FOLLOW = """
import sys, threading, time
from mooring_api.client import BlockingClient

def tell_when_it_waits(thread):
    while sys._current_frames()[thread].f_code.co_name != "wait":
        time.sleep(0.01)
    print("waits", flush=True)

with BlockingClient(sys.argv[1], sys.argv[2]) as client:
    for event in client.events(connection=int(sys.argv[3])):
        print(event.kind, flush=True)
        threading.Thread(target=tell_when_it_waits, args=(threading.get_ident(),), daemon=True).start()
"""


async def test_ctrl_c_while_events_are_awaited_is_keyboard_interrupt_and_a_quiet_end(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "dev", "-c", FOLLOW, shared.url, shared.token, str(record["id"]),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    for line in (b"onOpen\n", b"waits\n"):
        assert await asyncio.wait_for(process.stdout.readline(), 60) == line
    process.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == -signal.SIGINT
    text = errors.decode()
    assert text.splitlines()[-1] == "KeyboardInterrupt", text
    for word in ("Error", "destroyed", "never awaited", "Warning"):
        assert word not in text, text


class TookTooLong(Exception):
    """What a signal's handler raises."""


@contextmanager
def alarm() -> Iterator[None]:
    """Raise from a signal's handler, as somebody's alarm does, once this thread waits for what the client's own does."""

    def ring(*_: object) -> None:
        raise TookTooLong

    begun, over = threading.Event(), threading.Event()

    def ring_when_it_waits(thread: int) -> None:
        begun.wait()  # to start a thread is to wait for it, too
        while sys._current_frames()[thread].f_code.co_name != "wait":
            if over.wait(0.01):
                return
        time.sleep(0.1)  # it may be asked in several steps
        signal.pthread_kill(thread, signal.SIGALRM)

    old = signal.signal(signal.SIGALRM, ring)
    ringing = threading.Thread(target=ring_when_it_waits, args=(threading.get_ident(),))
    ringing.start()
    begun.set()
    try:
        yield
    finally:
        over.set()
        ringing.join()
        signal.signal(signal.SIGALRM, old)


def _streams(client: BlockingClient, connection: int, _url: str) -> None:
    for _ in client.events(connection=connection):
        pass


def _opens(client: BlockingClient, _connection: int, url: str) -> None:
    client.open(f"{url}slow?s=30", connectTimeout=60)


def _waits_for_a_page(client: BlockingClient, connection: int, _url: str) -> None:
    client.page(connection=connection, kinds=["onTerminate"], wait_s=30)


@pytest.mark.parametrize("verb", [_streams, _opens, _waits_for_a_page])
def test_an_exception_of_a_signals_handler_ends_the_waiting_and_the_client_can_be_used_on(
    module_service: RunningService, verb: Callable[[BlockingClient, int, str], None]
) -> None:
    with _echo_process() as url, BlockingClient(module_service.url, module_service.token) as client:
        record = client.open(url)
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(TookTooLong), alarm():
                verb(client, record.id, url)
            assert time.monotonic() - begun < 25, "it was not waited for the answer, which takes 30 s"
            assert client.connection(record.id).status == "Connected"
        client.terminate(record.id)


@contextmanager
def _echo_process() -> Iterator[str]:
    """An echo server in a process of its own: the main thread of this one is the client's."""
    program = (
        "import asyncio\n"
        "from tests.servers import EchoServer\n"
        "async def main():\n"
        "    async with EchoServer() as server:\n"
        "        print(server.url, flush=True)\n"
        "        await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("place", ["call_soon_threadsafe", "_write_to_self"])
def test_an_exception_between_the_asking_and_the_waiting_ends_what_was_asked(
    module_service: RunningService, place: str
) -> None:
    def ring(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == place:
            raise TookTooLong  # as a signal's handler that runs there

    with _echo_process() as url, BlockingClient(module_service.url, module_service.token) as client:
        record = client.open(url)
        stream = client.events(connection=record.id)
        assert next(stream).kind == "onOpen"
        sys.setprofile(ring)
        try:
            with pytest.raises(TookTooLong):
                next(stream)
        finally:
            sys.setprofile(None)
        assert client.connection(record.id).status == "Connected"
        client.terminate(record.id)


async def test_an_exception_thrown_into_a_stream_comes_out_of_it(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)

    def throws() -> None:
        with BlockingClient(shared.url, shared.token) as client:
            stream = client.events(connection=record["id"])
            next(stream)
            with pytest.raises(ZeroDivisionError):
                stream.throw(ZeroDivisionError)  # type: ignore[attr-defined]  # a generator, typed as its iterator
            with pytest.raises(StopIteration):
                next(stream)
            assert client.connection(record["id"]).status == "Connected"

    await asyncio.to_thread(throws)


def test_used_without_with_it_says_so(tmp_path: Path) -> None:
    client = BlockingClient("http://127.0.0.1:1", "token")
    for verb in (client.workers, lambda: next(client.events())):
        with pytest.raises(RuntimeError, match="with BlockingClient"):
            verb()
    with client:
        pass
    with pytest.raises(RuntimeError, match="with BlockingClient"):
        client.workers()


async def test_the_asynchronous_client_used_without_async_with_says_so() -> None:
    client = Client("http://127.0.0.1:1", "token")
    with pytest.raises(RuntimeError, match="async with Client"):
        await client.workers()
    with pytest.raises(RuntimeError, match="async with Client"):
        await anext(client.backup())


def test_in_the_child_of_a_fork_a_client_says_so_and_the_parents_goes_on(module_service: RunningService) -> None:
    with BlockingClient(module_service.url, module_service.token) as client:
        client.workers()
        child = os.fork()
        if not child:
            signal.alarm(60)  # were it to wait for ever
            try:
                client.workers()
            except RuntimeError as exc:
                os._exit(0 if "after a fork" in str(exc) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        client.workers()


async def _chunks(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
async def test_lines_are_the_same_however_they_are_cut(size: int) -> None:
    text = b"\n\na: 1\n\nlong line\r\n \nnot ended"
    chunks = [text[at : at + size] for at in range(0, len(text), size)]
    assert [line async for line in lines_of(_chunks(chunks))] == text.split(b"\n")[:-1]


async def test_an_event_of_32_mib_takes_the_time_of_its_bytes() -> None:
    data = b'data: {"id":"e-1","kind":"onMessage","time":"","event":{"data":"' + b"x" * 2**25 + b'"}}\n\n'

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if b"/events" in request:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n" + data)
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Client(f"http://127.0.0.1:{port}", "token") as client:
        begun = time.process_time()
        stream = client.events(connection=1)
        event = await anext(stream)
        took_s = time.process_time() - begun
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator, typed as its iterator
    assert len(event.event["data"]) == 2**25
    print(f"{took_s:.2f} s")
    assert took_s < 5, "it was 24 s when each chunk was joined to all before it"


async def test_kinds_may_be_any_iterable_and_an_ended_stream_ends(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)
    await shared.send(record["id"], "x")
    await shared.call("DELETE", f"/v1/connections/{record['id']}")
    async with Client(shared.url, shared.token) as client:
        for kinds in (iter(["onOpen"]), (kind for kind in ("onOpen",)), {"onOpen"}):
            stream = client.events(connection=record["id"], kinds=kinds)
            found = await asyncio.wait_for(_all(stream), 60)
            assert found == ["onOpen"]


async def _all(stream: AsyncIterator[Any]) -> list[str]:
    return [event.kind async for event in stream]


def test_every_verb_keeps_its_arguments_and_its_docstring() -> None:
    for name, verb in vars(BlockingClient).items():
        if not name.startswith("_"):
            original = getattr(Client, name)
            assert inspect.signature(verb) == inspect.signature(original), name
            assert inspect.getdoc(verb) == inspect.getdoc(original), name


def test_a_type_checker_knows_the_blocking_verbs(tmp_path: Path) -> None:
    program = tmp_path / "uses.py"
    program.write_text(
        "from mooring_api.client import BlockingClient\n"
        "with BlockingClient() as client:\n"
        "    reveal_type(client.open)\n"
        "    reveal_type(client.events(connection=1))\n"
        "    client.connection(1.5)\n"
        "    client.open('ws://…', wate=True)\n"
        "    client.send_lines(1, iter([b'1']))\n"
    )
    out, _, _ = mypy.run(
        ["--strict", "--no-error-summary", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir",
         str(tmp_path / "cache"), "--follow-imports", "silent", str(program)]
    )  # fmt: skip
    lines = [line.split(": ", 1)[1] for line in out.splitlines()]
    assert "def (url: str, *, wait: bool" in lines[0] and "ConnectionRecord" in lines[0]
    assert lines[1] == 'note: Revealed type is "typing.Iterator[mooring_api.client.answers.Event]"'
    assert 'incompatible type "float"; expected "int | str"' in lines[2]
    assert len(lines) == 3, out


async def test_a_service_behind_a_path_of_somebody_elses_is_asked_there_however_requests_travel() -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0].decode())
        body = b'{"connections":[],"next":null}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/behind/"
    async with server:
        for few in (False, True):
            async with Client(where, "token", few=few) as client:
                await client.connections(limit=7)
    assert asked == ["GET /behind/v1/connections?after=0&limit=7 HTTP/1.1"] * 2


def test_an_answer_that_comes_when_its_loop_has_ended_is_nobodys(monkeypatch: pytest.MonkeyPatch) -> None:
    heard, before = [], set(threading.enumerate())
    monkeypatch.setattr(threading, "excepthook", heard.append)
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:

        async def give_up() -> None:
            async with Client(f"http://127.0.0.1:{listener.getsockname()[1]}", "token", few=True) as client:
                asked = asyncio.create_task(client.workers())
                asking = await asyncio.to_thread(lambda: listener.accept()[0])
                taken.append(asking)
                asked.cancel()

        taken: list[socket.socket] = []
        asyncio.run(give_up())
        (thread,) = (one for one in {*threading.enumerate()} - before if one.name == "mooring-request")
        with taken[0] as asking:
            asking.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{"workers":[]}')
            thread.join(60)
        assert not thread.is_alive() and heard == []
