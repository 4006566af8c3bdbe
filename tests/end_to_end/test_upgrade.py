"""An upgrade, with the program of before: its workers are adopted by today's service, and today's workers by its service."""

from __future__ import annotations

import io
import re
import sqlite3
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import call, open_with, options, seen_by
from tests.servers import EchoServer, RawConnection, RawServer, frame

BEFORE = "e0c91a5382e9a3a003956a4d4d418215d6907d22"  # the last commit before the rooms


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree of that commit. No environment of its own: what it needs is what we need."""
    archive = subprocess.run(
        ["git", "archive", BEFORE, "workers", "service", "api"], cwd=ROOT, capture_output=True, check=False
    )
    assert archive.returncode == 0, (
        f"an upgrade is tested with commit {BEFORE}, and git has no such commit here: "
        f"a shallow clone lacks it, `git fetch --unshallow` brings it ({archive.stderr.decode().strip()})"
    )
    folder = tmp_path_factory.mktemp("before")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        tar.extractall(folder, filter="data")
    return folder


async def _pids(service: RunningService) -> dict[str, int]:
    return {worker["name"]: worker["pid"] for worker in (await service.get("/v1/workers"))["workers"]}


async def _use(service: RunningService, echo: EchoServer, connection: int, worker: str) -> None:
    """Have what goes over the link go over it once more: sends, events, calls, opens, refusals, ends."""
    events = await service.events(connection)
    await service.send(connection, "again")
    after = await service.events(connection, count=len(events) + 1)
    assert [event["seq"] for event in after] == list(range(1, len(events) + 2))
    assert after[-1]["event"]["data"] == "again"
    assert (await seen_by(service, worker))[-1] == [connection, "message", "again"]
    assert await call(service, "add", 2, 3, worker=worker) == 5
    assert (await call(service, "fail", worker=worker, status=422))["exception"] == "LookupError"
    asked = {"headers": {"X-A": "b"}, "compress": True, "closeTimeout": 60, "pingInterval": 5, "worker": worker}
    other = await open_with(service, echo.url, "Recorder", **asked)
    closed = await service.call("DELETE", f"/v1/connections/{other['id']}?code=4000&reason=enough")
    assert closed["terminate"]["wasClean"] is True
    assert (await service.open("ws://127.0.0.1:1/", 502, worker=worker))["errors"][0]["errCode"] == 102
    assert "no such database" in str(await open_with(service, echo.url, "Broken", worker=worker, status=422))


async def test_workers_of_the_program_before_are_adopted_by_todays_service(
    start_service: StartService, echo: EchoServer, before: Path
) -> None:
    theirs = {"PYTHONPATH": f"{before}/workers:{before}/service:{before}/api"}
    service = await start_service(*options(), env=theirs)
    record = await open_with(service, echo.url, "Recorder", worker="old")
    waiting = await service.open(f"{echo.url}slow?s=2", 202, worker="old", request_headers={"Prefer": "respond-async"})
    await _use(service, echo, record["id"], "old")
    assert str(before) in await call(service, "code", worker="old")
    pids = await _pids(service)
    await service.kill()
    await echo.sockets[0].send_str("while nobody was there")
    service.env = {}
    await service.start()
    await wait_for(service.is_ready)
    assert await _pids(service) == pids
    assert str(before) in await call(service, "code", worker="old")
    await service.events(waiting["id"], until="onOpen")
    told = [event["event"].get("data") for event in await service.events(record["id"], count=3)]
    assert told == [None, "again", "while nobody was there"]
    await _use(service, echo, record["id"], "old")
    assert str(ROOT) in await call(service, "code", worker="new"), "a new worker runs the new program"
    assert await service.call("DELETE", "/v1/workers/old") == {"discarded": 0, "closed": 2}
    kinds = [event["kind"] for event in await service.events(record["id"], until="onTerminate")]
    assert kinds.count("onTerminate") == 1 and kinds[-1] == "onTerminate"


async def test_workers_of_todays_program_are_adopted_by_the_service_before(
    start_service: StartService, echo: EchoServer, before: Path, tmp_path: Path
) -> None:
    # The program is exchanged under a service that runs, as an upgrade does it: what it starts from then on is new.
    installed = tmp_path / "workers"
    installed.symlink_to(before / "workers")
    service = await start_service(
        *options(), env={"PYTHONPATH": f"{installed}:{before}/service:{before}/api"}
    )  # fmt: skip
    assert str(before) in await call(service, "code", worker="old")
    installed.unlink()
    installed.symlink_to(ROOT / "workers")
    record = await open_with(service, echo.url, "Recorder", worker="new")
    assert str(ROOT) in await call(service, "code", worker="new")
    await _use(service, echo, record["id"], "new")
    pids = await _pids(service)
    await service.kill()
    await echo.sockets[0].send_str("while nobody was there")
    installed.unlink()
    installed.symlink_to(before / "workers")
    await service.start()
    await wait_for(service.is_ready)
    assert await _pids(service) == pids
    told = [event["event"].get("data") for event in await service.events(record["id"], count=3)]
    assert told == [None, "again", "while nobody was there"]
    await _use(service, echo, record["id"], "new")
    assert await service.call("DELETE", "/v1/workers/new") == {"discarded": 0, "closed": 1}
    kinds = [event["kind"] for event in await service.events(record["id"], until="onTerminate")]
    assert kinds.count("onTerminate") == 1 and kinds[-1] == "onTerminate"


async def _ends(service: RunningService, url: str) -> None:
    """Have connections end in every way that is not an order to come back: lost, closed with a code, refused, told to."""
    for number in range(5):
        opened = await service.open(f"{url}{number}")
        await service.events(opened["id"], count=2)  # the message is read by itself
        await service.send(opened["id"], "go on")
        if number == 4:
            await service.call("DELETE", f"/v1/connections/{opened['id']}?code=4000&reason=enough")
        await service.events(opened["id"], until="onTerminate")
    assert (await service.open("ws://127.0.0.1:1/", 502))["errors"][0]["errCode"] == 102


async def _script(connection: RawConnection) -> None:
    await connection.accept(after=frame(1, "one, zwölf".encode()))
    how = connection.request_line.split()[1][1:]
    await connection.read_frame()
    match how:
        case "0":
            connection.reset()
        case "1":
            connection.writer.close()  # the end of the stream, and no close frame
        case "2":
            connection.writer.write(frame(8, (1012).to_bytes(2, "big") + b"a new version"))
            await connection.read_close()
        case "3":
            connection.writer.write(frame(1, b"\xff"))  # what is not valid ends it by us
            await connection.read_close()
        case _:
            await connection.read_close()


def _bodies(journal: Path) -> list[bytes]:
    """Return what the journal holds of connections, each with its kind, as it stands there but for times and the server's port."""
    with sqlite3.connect(journal) as opened:
        rows = opened.execute("SELECT kinds, bodies FROM batches ORDER BY first").fetchall()
    found = []
    for kinds, bodies in rows:
        for kind, body in zip(kinds, bodies.split(b"\n"), strict=True):
            if b'"connection":' in body:
                found.append(b"%d %b" % (kind, re.sub(rb'"time":"[^"]*"', b'"time":""', body)))
    return found


async def test_what_is_not_kept_stands_in_the_journal_byte_for_byte_as_the_program_before_wrote_it(
    start_service: StartService, before: Path
) -> None:  # kept connections, 1
    written = []
    theirs_first = {"before": {"PYTHONPATH": f"{before}/workers:{before}/service:{before}/api"}, "today": {}}
    for name, env in theirs_first.items():
        service = await start_service(name=name, env=env)
        async with RawServer(_script) as server:
            await _ends(service, server.url)
        await service.stop()
        written.append(_bodies(service.state_dir / "journal.db"))
    theirs, ours = written
    assert len(ours) == 5 * 3 + 3 + 2, (
        ours
    )  # the two that are cut and the invalid one have an onError, the one that fails no onOpen
    assert ours == theirs
