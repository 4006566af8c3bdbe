"""Workers that are forked: as children of ours, from a process that holds nothing of the service; and when they cannot be."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mooring_service.processes import forker, orphans, worker_process
from mooring_service.processes.execution import ForkerProcess
from mooring_service.processes.forker import Forker
from mooring_service.processes.worker_process import WorkerProcess
from tests.service.fake_worker import until
from tests.service.processes.test_worker_process import settings


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a busy machine takes for a fork is nobody's fault."""
    monkeypatch.setattr(forker, "ANSWER_S", 60.0)
    monkeypatch.setattr(forker, "END_S", 60.0)


@pytest.fixture
def parent() -> Iterator[None]:
    """This process is the parent of orphans for no longer than a test."""
    yield
    ctypes.CDLL(None).prctl(orphans._PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@contextlib.asynccontextmanager
async def forking() -> AsyncIterator[Forker]:
    """A forker that has begun. (Not as a fixture: pytest says in the environment which phase of a test it is.)"""
    ours = Forker()
    ours.begin()
    ours._prepare()
    try:
        yield ours
    finally:
        await ours.close()


def helper_of(ours: Forker) -> WorkerProcess:
    """Return the process that forks."""
    assert ours._helper is not None
    return ours._helper.process


async def test_a_forked_worker_is_as_one_that_was_executed(parent: None, tmp_path: Path) -> None:
    async with forking() as forks:
        stays = await forks.start(settings(tmp_path, orphan_time_s=600.0))
        assert stays is not None
        await until(lambda: _command(stays.pid) == [*worker_process.PROGRAM, "w"])
        assert os.getsid(stays.pid) == stays.pid, "the service's Ctrl-C is not for it"
        assert os.getsid(stays.pid) != os.getsid(helper_of(forks).pid)
        stays.send_signal(signal.SIGKILL)
        await asyncio.wait_for(stays.exited, 60)
        process = await forks.start(settings(tmp_path, orphan_time_s=0.3))
        assert process is not None
        ended = await asyncio.wait_for(process.exited, 60)
        assert (ended.exit_code, ended.signal) == (0, None)
        assert json.loads((tmp_path / "exit.json").read_text())["reason"] == "no service for 0.3 s"
        assert '"worker": "w"' in (tmp_path / "w.log").read_text(), "it writes its own log"


async def test_how_a_forked_worker_has_ended_is_known(parent: None, tmp_path: Path) -> None:
    async with forking() as forks:
        process = await forks.start(settings(tmp_path, orphan_time_s=600.0))
        assert process is not None
        process.send_signal(signal.SIGKILL)
        assert (await asyncio.wait_for(process.exited, 60)).text == "killed by SIGKILL"


async def test_nothing_of_the_service_is_in_the_process_that_forks(parent: None, tmp_path: Path) -> None:
    async with forking() as forks:
        process = await forks.start(settings(tmp_path, orphan_time_s=600.0))
        assert process is not None
        folder = Path(f"/proc/{helper_of(forks).pid}/fd")
        try:
            # What the worker was given is closed behind the answer.
            await until(lambda: len(beyond := _beyond_standard(folder)) == 1 and beyond[0].startswith("socket:"))
            assert len(list(Path(f"/proc/{helper_of(forks).pid}/task").iterdir())) == 1, "a fork copies one thread"
        finally:
            process.send_signal(signal.SIGKILL)
            await asyncio.wait_for(process.exited, 60)


def _command(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def _beyond_standard(folder: Path) -> list[str]:
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it is just being closed
            if int(path.name) > 2:
                found.append(os.readlink(path))
    return found


def _is_killed(ours: Forker, folder: Path, patch: pytest.MonkeyPatch) -> None:
    helper_of(ours).send_signal(signal.SIGKILL)


def _gets_new_code(ours: Forker, folder: Path, patch: pytest.MonkeyPatch) -> None:
    os.utime(folder / "code" / "sitecustomize.py", (1, 1))


def _gets_a_new_environment(ours: Forker, folder: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("SOMETHING", "else")


@pytest.mark.parametrize(
    ("happens", "says"),
    [
        (_is_killed, "the forker is gone: "),
        (_gets_new_code, "the forker is gone: its code has changed"),
        (_gets_a_new_environment, None),
    ],
)
async def test_a_forker_that_can_go_on_no_longer_is_renewed_and_no_start_fails(
    happens: Callable[[Forker, Path, pytest.MonkeyPatch], None],
    says: str | None,
    parent: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "sitecustomize.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "code"))
    monkeypatch.setattr(forker, "RENEW_S", 0.0)
    caplog.set_level(logging.WARNING)
    async with forking() as ours:
        first = helper_of(ours)
        before = await ours.start(settings(tmp_path, orphan_time_s=0.1))
        assert before is not None
        happens(ours, tmp_path, monkeypatch)
        at_once = await ours.start(settings(tmp_path, orphan_time_s=0.1))
        assert (at_once is None) == (says is not None), "None: the worker is to be started by exec"
        if says is not None:
            assert any(f"worker w is started by exec: {says}" in line for line in caplog.messages), caplog.messages
        after = await ours.start(settings(tmp_path, orphan_time_s=0.1))
        assert after is not None
        assert helper_of(ours).pid != first.pid
        for process in (before, at_once, after):
            if process is not None:
                assert (await asyncio.wait_for(process.exited, 60)).exit_code == 0
        await asyncio.wait_for(first.exited, 60)


async def test_a_process_that_was_begun_before_is_taken_over_with_its_environment(parent: None, tmp_path: Path) -> None:
    begun = ForkerProcess()
    ours = Forker(begun)
    ours.begin()
    try:
        assert helper_of(ours).pid == begun.child.pid
        process = await ours.start(settings(tmp_path, orphan_time_s=0.1))
        assert process is not None
        assert helper_of(ours).pid == begun.child.pid
        assert (await asyncio.wait_for(process.exited, 60)).exit_code == 0
    finally:
        await ours.close()
    begun.end()  # whoever has begun it says so at its own end: there is nothing left to do
    assert not Path(f"/proc/{begun.child.pid}").exists()


async def test_one_that_has_died_before_it_was_taken_over_is_renewed_at_once(
    parent: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun = ForkerProcess()
    begun.child.send_signal(signal.SIGKILL)
    ours = Forker(begun)
    ours.begin()
    try:
        assert await ours.start(settings(tmp_path, orphan_time_s=0.1)) is None, "this one is started by exec"
        assert any("worker w is started by exec: the forker is gone" in line for line in caplog.messages)
        process = await ours.start(settings(tmp_path, orphan_time_s=0.1))
        assert process is not None
        assert helper_of(ours).pid != begun.child.pid
        assert (await asyncio.wait_for(process.exited, 60)).exit_code == 0
    finally:
        await ours.close()


def test_one_that_no_service_has_taken_over_is_ended_at_once() -> None:
    begun = ForkerProcess()
    begun.end()
    assert not Path(f"/proc/{begun.child.pid}").exists()
    begun.end()


async def test_a_worker_that_nobody_waits_for_any_more_never_begins(parent: None, tmp_path: Path) -> None:
    async with forking() as forks:
        first = await forks.start(settings(tmp_path, orphan_time_s=0.1))
        assert first is not None
        await asyncio.wait_for(first.exited, 60)
        helper_of(forks).send_signal(signal.SIGSTOP)
        starting = asyncio.create_task(forks.start(settings(tmp_path, orphan_time_s=600.0)))
        await until(lambda: forks._helper is None or forks._helper._answers)
        starting.cancel()
        await asyncio.wait({starting})
        helper_of(forks).send_signal(signal.SIGCONT)
        next_one = await forks.start(settings(tmp_path, orphan_time_s=0.1))  # answers come in order
        assert next_one is not None
        await asyncio.wait_for(next_one.exited, 60)
        await until(lambda: not _workers_but(next_one.pid))
        assert (tmp_path / "w.log").read_text().count('"event"') == 2, (
            "the one that nobody knows has said and done nothing"
        )


def _workers_but(pid: int) -> list[int]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != pid:
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                command = _command(int(folder.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            if parent == os.getpid() and command[-1] == "w":
                found.append(int(folder.name))
    return found


async def test_what_a_worker_has_left_is_buried_and_what_somebody_waits_for_is_not(
    parent: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphans, "LOOK_S", 0.05)
    orphans.adopt_all()
    burying = asyncio.create_task(orphans.bury())
    try:
        # A child that is gone at once leaves one of its own, which ends.
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import subprocess; print(subprocess.Popen(['sleep', '0.1']).pid)",
            stdout=subprocess.PIPE,
        )  # fmt: skip
        out, _ = await child.communicate()
        assert child.returncode == 0
        left = Path(f"/proc/{int(out)}")
        await until(lambda: not left.exists())
    finally:
        burying.cancel()
        await asyncio.wait({burying})
