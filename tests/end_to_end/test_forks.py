"""Processes that user code starts: they end as they are told, hold nothing of the worker, and leave it alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.servers import EchoServer, RawConnection, RawServer, frame

CODE = "tests.end_to_end.forking_code"
FUNCTIONS = ("end_many", "start", "fork", "pool", "run_in_pool", "run_program")


@pytest.fixture
async def service(start_service: StartService) -> RunningService:
    options = [f"--function={name}={CODE}:{name}" for name in FUNCTIONS]
    options += [f"--handler={name}={CODE}:{name}" for name in ("Ends", "Asks")]
    return await start_service(*options, "--app-dir", str(ROOT))


async def pid_of(service: RunningService) -> int:
    return int((await service.get("/v1/workers/main"))["pid"])


async def call(service: RunningService, function: str, *params: Any) -> Any:
    body = {"function": function, "params": list(params)}
    return (await service.call("POST", "/v1/workers/main/calls", json=body))["result"]


def lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


async def test_a_callback_that_ends_a_helper_ends_nothing_else(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(echo.url, handler={"name": "Ends"})
    await service.send(record["id"], "now")
    await wait_for(lambda: "[-15]" in echo.peers[0].received)
    assert (await service.record(record["id"]))["status"] == "Connected"


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, -15), (signal.SIGHUP, -1), (signal.SIGINT, 1), (signal.SIGUSR1, -10), (signal.SIGKILL, -9)],
)
async def test_a_helper_that_is_signalled_at_once_ends_by_it_and_its_worker_goes_on(
    service: RunningService, echo: EchoServer, number: int, code: int
) -> None:
    record = await service.open(echo.url)
    pid = await pid_of(service)
    codes = await call(service, "end_many", 30, number)
    if number == signal.SIGINT:
        assert set(codes) <= {1, -2}, "a KeyboardInterrupt, in or before what it runs"
    else:
        assert codes == [code] * 30
    assert await pid_of(service) == pid
    await service.send(record["id"], "still here")
    await wait_for(lambda: echo.peers[0].received == ["still here"])


@pytest.mark.parametrize("start", ["fork", "spawn", "plain"])
async def test_a_server_sees_the_end_of_tcp_while_a_helper_lives(service: RunningService, start: str) -> None:
    ended = asyncio.Event()

    async def script(connection: RawConnection) -> None:
        await connection.accept()
        code, _ = await connection.read_close()
        connection.writer.write(frame(8, (code or 1000).to_bytes(2, "big")))
        assert await connection.reader.read() == b""
        ended.set()

    async with RawServer(script) as server:
        record = await service.open(server.url)
        helper = await (call(service, "fork") if start == "plain" else call(service, "start", start))
        assert lives(helper)
        await service.call("DELETE", f"/v1/connections/{record['id']}")
        await asyncio.wait_for(ended.wait(), 60)
        assert lives(helper)
        os.kill(helper, signal.SIGKILL)


async def test_a_socket_that_is_not_read_just_now_is_let_go_too(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(f"{echo.url}push?count=100000&size=1000", handler={"name": "Ends"})
    await wait_for(lambda: _paused(service))
    helper = await call(service, "start")
    pid = await pid_of(service)
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(echo.peers[0].gone.wait(), 60)
    assert lives(helper)
    await service.events(record["id"], until="onTerminate")
    os.kill(helper, signal.SIGKILL)


async def _paused(service: RunningService) -> bool:
    async with service.client.get("/metrics") as response:
        text = await response.text()
    return any(
        line.startswith("mooring_paused_connections") and float(line.split()[-1]) > 0 for line in text.splitlines()
    )


async def test_a_worker_that_is_killed_is_replaced_at_once_while_its_helper_lives(
    service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(echo.url)
    helper = await call(service, "start")
    pid = await pid_of(service)
    os.kill(pid, signal.SIGKILL)
    await asyncio.wait_for(echo.peers[0].gone.wait(), 60)
    end = (await service.events(record["id"], until="onTerminate"))[-1]["event"]
    assert "SIGKILL" in end["reason"]
    assert await call(service, "pool", [-1]) == [1], "the next process works"
    assert lives(helper), "nobody has waited for it"
    os.kill(helper, signal.SIGKILL)


async def test_no_worker_is_found_in_a_helper(service: RunningService, echo: EchoServer) -> None:
    record = await service.open(echo.url, handler={"name": "Asks"})
    await service.send(record["id"], "now")
    await wait_for(lambda: len(echo.peers[0].received) >= 2)  # what it sends is echoed, and asks again
    assert echo.peers[0].received[1] == "['RuntimeError', 'ConnectionClosed', 'RuntimeError', 'Closed'] 0"
    assert (await service.record(record["id"]))["status"] == "Connected"


async def test_pools_work_and_end_with_their_worker(service: RunningService, echo: EchoServer) -> None:
    await service.open(echo.url)
    numbers = list(range(-50, 50))
    assert await call(service, "pool", numbers) == [abs(number) for number in numbers]
    assert await call(service, "run_in_pool", numbers) == [abs(number) for number in numbers]
    children = _all_children(await pid_of(service))
    assert len(children) >= 2
    await service.call("DELETE", "/v1/workers/main")
    await wait_for(lambda: not any(map(lives, children)))


def _all_children(parent: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{parent}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


async def test_a_program_that_is_started_is_like_any_other(service: RunningService, echo: EchoServer) -> None:
    await service.open(echo.url)
    assert await call(service, "run_program") == ["[]"]
