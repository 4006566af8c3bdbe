"""User code that starts processes of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from mooring import WebSocket, call_worker

helpers: list[multiprocessing.process.BaseProcess] = []
pools: list[ProcessPoolExecutor] = []


def end_many(count: int, number: int) -> list[int | None]:
    """Start helpers and signal each at once; return how they have ended."""
    codes = []
    for _ in range(count):
        helper = multiprocessing.Process(target=time.sleep, args=(60,))
        helper.start()
        os.kill(helper.pid or 0, number)
        helper.join(20)
        codes.append(helper.exitcode)
    return codes


class Ends:
    """As `end_many`, in a callback, and tells the server."""

    def on_message(self, ws: WebSocket, event: Any) -> None:
        ws.send(str(end_many(1, signal.SIGTERM)))


def start(method: str = "fork") -> int:
    """Start a helper that lives on; return its pid."""
    helper = multiprocessing.get_context(method).Process(target=time.sleep, args=(60,))
    helper.start()
    helpers.append(helper)
    return helper.pid or 0


def fork() -> int:
    """Fork without any library, and again in the child; return the pid of the grandchild."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.closerange(3, writing)
        os.closerange(writing + 1, 1 << 16)
        mine, yours = socket.socketpair()  # numbers that were the worker's
        grandchild = os.fork()
        if not grandchild:
            try:
                mine.sendall(b"x")  # not taken away from it
                os.write(writing, b"%d" % os.getpid() if yours.recv(1) == b"x" else b"0")
                time.sleep(60)
            finally:
                os._exit(0)
        os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading, "rb", buffering=0) as file:
        return int(file.read(20))


def _ask(answers: Connection, ws: WebSocket) -> None:
    found = []
    for ask in (
        lambda: call_worker("other", "nothing"),
        lambda: ws.send("x"),
        lambda: WebSocket.new("ws://127.0.0.1:1/"),
    ):
        try:
            ask()
            found.append("did it")
        except Exception as exc:  # noqa: BLE001 - the name is what is wanted
            found.append(type(exc).__name__)
    answers.send([*found, ws.status])


class Asks:
    """Sends what a helper says that a worker's own calls do there."""

    def on_message(self, ws: WebSocket, event: Any) -> None:
        mine, yours = multiprocessing.Pipe()
        helper = multiprocessing.Process(target=_ask, args=(yours, ws))
        helper.start()
        found = mine.recv()
        helper.join()
        ws.send(f"{found} {helper.exitcode}")


def pool(numbers: list[int]) -> list[int]:
    """Compute in a pool that lives on."""
    if not pools:
        pools.append(ProcessPoolExecutor(2))
    return list(pools[0].map(abs, numbers))


async def run_in_pool(numbers: list[int]) -> list[int]:
    """As `pool`, with asyncio."""
    pool([])
    loop = asyncio.get_running_loop()
    return list(await asyncio.gather(*(loop.run_in_executor(pools[0], abs, number) for number in numbers)))


def run_program() -> list[str]:
    """Start a program; return what it finds of ours: signals that are not as they should be, descriptors."""
    import subprocess

    code = "import os, signal; print([n for n in (1, 2, 15, 10) if signal.getsignal(n) not in (signal.SIG_DFL,"
    code += " signal.default_int_handler)] + os.listdir('/proc/self/fd')[3:-1])"
    return [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()]
