"""The forker is executed before the service has imported its own modules, and is left behind by none that does not start."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command_line import run
from tests.conftest import RunningService, StartService, wait_for

MANY_CORES = len(os.sched_getaffinity(0)) > 1


def forkers(mark: str) -> list[int]:
    """Return the pids of forkers in whose environment `mark` is: whoever is their parent by now."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                if b"mooring.process.forker" in words and mark.encode() in (folder / "environ").read_bytes():
                    found.append(int(folder.name))
            except OSError:
                continue  # it has ended
    return found


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def waits(pid: int) -> bool:
    """Does it sleep, as it does once it has imported all and waits for its first order?"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


async def only_worker_of(service: RunningService) -> list[int]:
    """Return its worker; what forks the workers may still have the log of one for a moment, which it was handed for that."""
    found: list[int] = await wait_for(lambda: len(pids := service.worker_pids()) == 1 and pids)
    return found


@pytest.mark.skipif(not MANY_CORES, reason="on one core a service keeps it for itself until it listens")
async def test_the_forker_of_a_service_is_there_before_it_listens_and_forks_its_first_worker(
    start_service: StartService,
) -> None:
    mark = secrets.token_hex(8)
    service = await start_service(env={"MARK": mark})
    [forker] = forkers(mark)
    assert parent_of(forker) == service.process.pid
    # A busy machine may take longer for what it imports than a start waits for it.
    await wait_for(lambda: waits(forker), 90)
    await service.call("PUT", "/v1/workers/main", 201)
    [worker] = await only_worker_of(service)
    assert parent_of(worker) == service.process.pid, "an orphan of the forker's"
    assert forkers(mark) == [forker], "it was not renewed: its environment is that of the workers"
    assert await service.stop() == 0
    await wait_for(lambda: not forkers(mark), 60)  # it ends at the end of its socket, however busy the machine is


async def test_signals_that_were_blocked_when_the_service_was_started_are_not_in_its_workers(
    start_service: StartService,
) -> None:
    blocked = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGHUP))\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'mooring_api', *sys.argv[1:]])\n"
    )
    service = await start_service(program=(sys.executable, "-c", blocked))
    await service.call("PUT", "/v1/workers/main", 201)
    [worker] = await only_worker_of(service)
    [mask] = [line for line in Path(f"/proc/{worker}/status").read_text().splitlines() if line.startswith("SigBlk")]
    assert int(mask.split()[1], 16) == 0


@pytest.mark.parametrize(
    "refusal",
    [
        lambda service: (
            ("--state-dir", str(service.state_dir), "serve", "--listen", "127.0.0.1:0"),
            "in use by process",
        ),
        lambda service: (
            ("--state-dir", f"{service.state_dir}-other", "serve", "--listen", f"127.0.0.1:{service.port}"),
            "address",
        ),
    ],
    ids=["state directory in use", "port in use"],
)
async def test_a_service_that_refuses_to_start_leaves_no_forker_behind(
    start_service: StartService, refusal: Callable[[RunningService], tuple[tuple[str, ...], str]]
) -> None:
    arguments, says = refusal(await start_service())
    mark = secrets.token_hex(8)
    ran = await run(*arguments, env={"MARK": mark})
    assert (ran.code, says in ran.errors.lower()) == (1, True), ran.errors
    assert not forkers(mark)


async def test_a_service_that_forks_no_workers_executes_no_forker(start_service: StartService) -> None:
    mark = secrets.token_hex(8)
    service = await start_service(env={"MARK": mark, "MOORING_SUPERVISOR_FORK_WORKERS": "false"})
    assert not forkers(mark)
    await service.call("PUT", "/v1/workers/main", 201)
    assert not forkers(mark)


async def test_the_next_program_of_a_process_forks_its_workers_too(start_service: StartService) -> None:
    mark = secrets.token_hex(8)
    service = await start_service(env={"MARK": mark})
    ran = await run("--state-dir", str(service.state_dir), "restart")
    assert ran.code == 0, ran.errors

    async def running() -> bool:
        return (await service.call("PUT", "/v1/workers/main", None) or {}).get("status") == "Running"

    await wait_for(running)
    [worker] = await only_worker_of(service)
    assert parent_of(worker) == service.process.pid
    await wait_for(lambda: len(forkers(mark)) == 1)  # that of the program before may still be ending
    assert parent_of(forkers(mark)[0]) == service.process.pid
