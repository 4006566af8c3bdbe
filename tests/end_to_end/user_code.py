"""Handlers and functions that the end-to-end tests have workers run."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import logging
import os
import sys
import threading
import time
from typing import Any

import mooring
from mooring import ConnectError, MooringError, WebSocket, call_worker, kill_worker

CODE = os.path.realpath(mooring.__file__)

seen: list[Any] = []
counts: dict[int, int] = {}
overlap = {"now": 0, "most": 0}
_opened: list[WebSocket] = []
_telling = threading.Event()


class Recorder:
    """Notes every callback in a module global, and may be told to misbehave."""

    def __init__(self, note: str = "") -> None:
        self.note = note

    def on_open(self, ws, event) -> None:
        seen.append((ws.id, event.type, ws.status))

    def on_message(self, ws, event) -> None:
        seen.append((ws.id, event.type, event.data))

    def on_error(self, ws, event) -> None:
        seen.append((ws.id, event.type, event.errors[0].err_code))

    def on_terminate(self, ws, event) -> None:
        seen.append((ws.id, event.type, event.code, event.reason, event.was_clean, ws.status))


class AsyncRecorder(Recorder):
    async def on_open(self, ws, event) -> None:
        await asyncio.sleep(0.01)
        super().on_open(ws, event)

    async def on_message(self, ws, event) -> None:
        await asyncio.sleep(0.01)
        super().on_message(ws, event)


class Sorter:
    data_type = "auto"

    def on_message(self, ws, event) -> None:
        seen.append([ws.data_type, type(event.data).__name__, event.data])


class OnlyMessages:
    data_type = "object"
    headers = {"X-From": "handler"}

    def on_message(self, ws, event) -> None:
        ws.send({"got": event.data, "type": ws.data_type})


class Stubborn:
    def on_message(self, ws, event) -> None:
        time.sleep(60)


class Sleeper:
    """Sleeps for as long as a file is there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def on_open(self, ws, event) -> None:
        hold(self.path)


class Busy:
    """Is busy until the connection is told to end."""

    def on_open(self, ws, event) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and ws.status == "Connected":
            pass


class Counter:
    """Counts, and checks the order."""

    def on_message(self, ws, event) -> None:
        number = int(event.data.rstrip("."))
        assert number == counts.get(ws.id, 0) + 1, (number, counts.get(ws.id))
        counts[ws.id] = number


class Overlap:
    """Is another callback of this worker running meanwhile?"""

    async def on_message(self, ws, event) -> None:
        overlap["now"] += 1
        overlap["most"] = max(overlap["most"], overlap["now"])
        await asyncio.sleep(0.005)
        overlap["now"] -= 1


class Marker:
    """Is inside its callback until a second one has left a file in `folder`, too."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_message(self, ws, event) -> None:
        open(f"{self.folder}/{ws.id}", "w").close()
        while len(os.listdir(self.folder)) < 2:
            time.sleep(0.01)
        seen.append("met")


class Misbehaves:
    """Does what its message says."""

    def on_message(self, ws, event) -> None:
        match event.data:
            case "exit":
                sys.exit(3)
            case "base":
                raise KeyboardInterrupt("not yours")
            case "raise":
                raise ValueError("user code is wrong \ud800")
            case "flood":
                for _ in range(20_000):
                    print("x" * 100)
            case "thread":
                threading.Thread(target=ws.send, args=("from a thread",)).start()
            case "terminate":
                ws.terminate(4001, "enough")
                seen.append(ws.status)
            case "twice":
                ws.terminate()
                ws.terminate()
            case "log":
                print("printed by user code")
                logging.getLogger("theirs").warning("logged by user code")
            case "hostile logging":
                # What user code does to the root logger is its own affair, and nobody else's.
                logging.getLogger().handlers[0].acquire()
                logging.getLogger().addFilter(lambda record: 1 / 0)
            case "recursion":
                self.on_message(ws, event)
            case "bad terminate":
                ws.terminate(1006)
            case "bad send":
                ws.send(3.5j)
            case _:
                ws.send("alive: " + event.data)

    def on_terminate(self, ws, event) -> None:
        ws.terminate()
        try:
            ws.send("late")
        except Exception as exc:  # noqa: BLE001 - noted, for the test to look at
            seen.append(type(exc).__name__)
        raise RuntimeError("in on_terminate")


class AsyncMisbehaves:
    async def on_message(self, ws, event) -> None:
        if event.data == "task":

            async def ends() -> None:
                sys.exit(4)

            self.task = asyncio.create_task(ends())
        else:
            ws.send("alive: " + event.data)


class Opens:
    """Opens a further connection from inside a callback."""

    def __init__(self, url: str) -> None:
        self.url = url

    def on_open(self, ws, event) -> None:
        inner = WebSocket.new(self.url, Recorder())
        assert inner.status == "Connected"
        inner.send("from the inner one")
        seen.append(("inner", inner.id, inner.url, inner.data_type, type(inner.handler).__name__))


class Broken:
    def __init__(self) -> None:
        raise OSError("no such database")


def get_seen() -> list[Any]:
    return seen


def get_counts() -> dict[int, int]:
    return counts


def get_overlap() -> dict[str, int]:
    return overlap


def add(a: int, b: int = 1) -> int:
    return a + b


async def add_slowly(a: int, b: int) -> int:
    await asyncio.sleep(0.05)
    return a + b


def remember(*values: Any) -> None:
    seen.extend(values)


def fail(message: str = "no") -> None:
    raise LookupError(message)


def pid() -> int:
    return os.getpid()


def sleep(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


def hold(path: str) -> str:
    """Keep the context for as long as the file is there."""
    while os.path.exists(path):
        time.sleep(0.01)
    return "released"


def code() -> str:
    """Return where the code of this worker was when it was imported."""
    return CODE


def die() -> None:
    os._exit(7)


def tell(worker: str, *values: Any) -> str:
    for value in values:
        call_worker(worker, "remember", value)
    return "told"


def mutate(worker: str) -> None:
    shared = [1]
    call_worker(worker, "remember", shared)
    shared.append(2)


def kill(name: str | None = None) -> str:
    kill_worker(name)
    time.sleep(0.3)
    return "still here"


def kill_then_call(name: str) -> None:
    kill_worker(name)
    call_worker(name, "remember", "after the kill")


def try_new(url: str) -> list[Any]:
    try:
        ws = WebSocket.new(url, Recorder())
    except ConnectError as exc:
        return ["ConnectError", exc.errors[0].err_code]
    return [ws.status, ws.id]


def open_until_told(url: str) -> None:
    """Open connections one after the other, until `opened_so_far` asks for them."""
    _telling.clear()
    _opened.clear()

    def work() -> None:
        while not _telling.is_set():
            with contextlib.suppress(MooringError, TimeoutError):
                _opened.append(WebSocket.new(url))
            time.sleep(0.02)

    threading.Thread(target=work, daemon=True).start()


def opened_so_far() -> list[list[Any]]:
    _telling.set()
    return [[ws.id, ws.status] for ws in _opened]


def unserialisable() -> object:
    return object()


def flood() -> None:
    """Print 10 MB at once, and then 1 MB a second for as long as the worker lives."""
    print("x" * 10_000_000)

    def go_on() -> None:
        while True:
            print("y" * 100_000)
            time.sleep(0.1)

    threading.Thread(target=go_on, daemon=True).start()


def hold_the_lock(seconds: int) -> None:
    """What a badly written C extension does: it sleeps with the interpreter's lock held."""
    ctypes.PyDLL(None).sleep(seconds)


class NoMessage(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even a message")


class BrokenWithoutMessage:
    def __init__(self) -> None:
        raise NoMessage


class BrokenOptions:
    @property
    def headers(self) -> dict[str, str]:
        raise LookupError("no token")


class WrongOption:
    connect_timeout = -1


class Spelled4D:
    def onMessage(self, ws, event) -> None:
        seen.append("it has never run")


async def make_later() -> Recorder:
    return Recorder()


def huge() -> str:
    return "x" * 70_000_000


def append_to(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(line)


def kill_at_once() -> None:
    kill_worker()


def environment() -> dict[str, str]:
    return dict(os.environ)


def say(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)
    logging.getLogger("own").warning("%s", text)


def stall_log() -> None:
    """From here on nobody takes what is written to the log of this worker."""
    _, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    os.dup2(writing, 2)


def break_reports() -> None:
    """What hardly anything else can do: an exception that ends the thread of callbacks."""
    from mooring.usercode import handlers  # here: workers of an earlier version run this file, too

    handlers.message_of = None  # type: ignore[assignment]
    raise RuntimeError("and nobody can say so")


def say_surrogate() -> None:
    say("\ud800")
