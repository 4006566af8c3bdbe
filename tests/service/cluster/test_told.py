"""What fails again and again, each quarter or half second, is told in the log once, and again when it is something else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from mooring_service.cluster.copies import COPY, MADE_S, Copies, Made
from mooring_service.cluster.copy import Copy, pieces_of
from mooring_service.cluster.engine import Answer, Engine, Unknown
from mooring_service.cluster.forward import VERSION, Command, Reply, command_subject
from mooring_service.cluster.objects import stream_name, subject_of
from mooring_service.journal.folded import FoldedCopy
from mooring_service.journal.replica import MEMORY_BYTES, Replica
from tests.cluster_kit.nodes import running_engine, running_nodes, settled
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for
from tests.service.cluster.test_outrun import missed

FOUND_S = 60.0
OFTEN = 2

_pack = msgspec.msgpack.Encoder().encode


def told(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    """Return what was logged that contains this, from warnings on."""
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [message for message in messages if text in message]


async def test_a_journal_that_cannot_be_read_is_told_once_by_who_publishes_and_once_by_who_counts(
    servers: EngineServers,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tries: Counter[str] = Counter()

    def counted(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            tries[name] += 1
            return work(*args)

        return run

    ways = Proxies(servers.ports)
    try:
        async with running_nodes(tmp_path, cluster_name, ways.urls, "a", dead_after=600) as nodes:
            a = nodes["a"]
            connection = await a.open_connection()
            await wait_for(lambda: a.replicated, FOUND_S)
            ways.hold()
            size = MEMORY_BYTES // 80
            for _ in range(120):  # more than stays in memory
                a.commit(connection, size=size)
            await wait_for(lambda: not a.journal.queued_bytes, FOUND_S)
            for name in ("_read", "_behind"):
                monkeypatch.setattr(Replica, name, counted(name, getattr(Replica, name)))
            path = a.folder / "journal.db"
            path.rename(a.folder / "away.db")  # who has it open goes on; who opens it finds none
            ways.cut()
            ways.pass_on()
            tries.clear()
            await wait_for(lambda: min(tries["_read"], tries["_behind"]) > OFTEN, FOUND_S)
            (a.folder / "away.db").rename(path)
            await settled(nodes, FOUND_S)
    finally:
        ways.close()
    assert len(told(caplog, "what is to be published cannot be read")) == 1
    assert len(told(caplog, "how much waits for the engine cannot be read")) == 1


async def test_that_the_place_in_the_cluster_cannot_be_kept_is_told_once(
    servers: EngineServers, cluster_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a", dead_after=600) as nodes:
        a = nodes["a"]
        tries = 0
        save_cluster = a.journal.save_cluster

        async def counted(state: bytes, acknowledged: int) -> bool:
            nonlocal tries
            tries += 1
            return await save_cluster(state, acknowledged)

        a.journal.save_cluster = counted  # type: ignore[method-assign]
        with contextlib.closing(apsw.Connection(str(a.folder / "journal.db"))) as other:
            other.set_busy_timeout(60_000)
            other.execute("BEGIN IMMEDIATE")  # nothing is committed there
            saving = asyncio.create_task(a.cluster.own.save(a.cluster.own.kept.replicated))
            await wait_for(lambda: tries > OFTEN, FOUND_S)
            other.execute("ROLLBACK")
        await asyncio.wait_for(saving, FOUND_S)
    assert len(told(caplog, "the place in the cluster cannot be kept")) == 1


async def test_what_the_engine_does_not_grant_is_told_once_on_a_link(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    denied = (
        'authorization { users: [ { user: "a", password: "a", permissions: { publish: { deny: ["closed.>"] } } } ] }'
    )
    guarded = EngineServers(tmp_path / "guarded", 1, extra=denied)
    try:
        await asyncio.to_thread(guarded.start_all)
        async with running_engine(guarded.urls, "a", user="a", password="a") as engine:
            assert engine.link is not None
            for number in range(OFTEN):
                await engine.publish(f"closed.{number}", b"")
            await engine.link.client.flush(int(FOUND_S))  # what was said before is answered
            await wait_for(lambda: "closed." in engine.refusal, FOUND_S)
    finally:
        guarded.stop_all()
    assert len(told(caplog, "grants us less than we need")) == 1


async def test_that_the_log_cannot_be_read_is_told_once(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a", dead_after=600) as nodes:
        tail = nodes["a"].cluster.tail
        await engine.api(f"STREAM.DELETE.{stream_name(cluster_name)}")
        await wait_for(lambda: tail.rebuilds.get("refused", 0) > OFTEN, FOUND_S)
        assert len(told(caplog, "the log cannot be read")) == 1


async def test_what_is_gone_before_it_was_read_is_told_once_while_nobody_can_be_asked(
    servers: EngineServers,
    engine: Engine,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    find, failures = Copies.find, 0

    async def unasked(copies: Copies) -> Copy | None:
        nonlocal failures
        if failures <= OFTEN:
            failures += 1
            raise Unknown("no answer in time")
        return await find(copies)

    monkeypatch.setattr(Copies, "find", unasked)
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes["a"], nodes["b"]
        await missed(a, b, cluster_name, engine)
        await a.start()
        await a.ready()
        assert a.cluster.tail.gaps == 1 and failures > OFTEN
    assert len(told(caplog, "are gone before they were read")) == 1


async def test_why_a_peers_copy_cannot_be_had_is_told_when_it_changes(
    servers: EngineServers,
    engine: Engine,
    cluster_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("ASK_S", "MADE_S"):  # an answer that comes late would be told of, too
        monkeypatch.setattr(f"mooring_service.cluster.copies.{name}", 60.0)
    made: Counter[str] = Counter()
    damage = "short"
    (whole,) = pieces_of(Copy(FoldedCopy(-1, [], []), []))
    old = [whole[:1], whole[1:2], whole[2:]]

    async def answer(asked: Answer) -> None:
        command = msgspec.msgpack.decode(asked.data, type=Command)
        reply = Reply(200, [], b"\xc1")  # no byte of any copy
        if command.path == "far":
            reply = Reply(200, [], _pack(1 << 40))
        elif command.path == "make":
            made[damage] += 1
            reply = Reply(200, [], _pack(Made("copy", 3)))
        elif damage == "old":
            reply = Reply(200, [], old[int(command.path[-1])])
        elif damage == "short" and command.path == f"copy/{made[damage] % 3}":  # at another one each time
            reply = Reply(404, [], b"")
        await engine.publish(asked.reply, _pack(reply))

    async with running_nodes(tmp_path, cluster_name, servers.urls, "a", dead_after=600) as nodes:
        await engine.put(stream_name(cluster_name), subject_of(cluster_name, "peer"), b"?", 0)
        await engine.serve(command_subject(cluster_name, "peer"), answer)
        finding = asyncio.create_task(nodes["a"].cluster.copies.find())
        for damage in ("short", "damaged", "old"):
            await wait_for(lambda: made[damage] > OFTEN, FOUND_S)  # noqa: B023
        finding.cancel()
        await asyncio.wait({finding})
    assert told(caplog, "the copy of node peer broke off") == ["the copy of node peer broke off at piece 1 of 3"]
    assert told(caplog, "is taken over") == [], "one that does not reach to where the log begins is of no use"
    assert len(told(caplog, "the copy of node peer cannot be read")) == 1


async def test_who_asks_for_a_copy_again_and_again_is_told_of_once(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subject = command_subject(cluster_name, "a")

    async def ask(path: str) -> Reply:
        command = Command(VERSION, "b", int(MADE_S * 1_000), COPY, path, [], b"")
        return msgspec.msgpack.decode(await engine.ask(subject, _pack(command), timeout_s=MADE_S), type=Reply)

    async with running_nodes(tmp_path, cluster_name, servers.urls, "a", dead_after=600) as nodes:
        a = nodes["a"]
        connection = await a.open_connection()
        with contextlib.closing(apsw.Connection(str(a.folder / "cluster.db"))) as other:
            other.set_busy_timeout(60_000)
            other.execute("BEGIN IMMEDIATE")  # nothing is committed there
            a.commit(connection)
            await wait_for(lambda: told(caplog, "cluster.db cannot be written"), FOUND_S)
            assert [(await ask("make")).status for _ in range(2)] == [503, 503]
            other.execute("ROLLBACK")

        async def is_made() -> bool:
            return (await ask("make")).status == 200

        await wait_for(is_made, FOUND_S)
        made = [msgspec.msgpack.decode((await ask("make")).body, type=Made) for _ in range(OFTEN)]
        assert [(await ask(f"{one.name}/0")).status for one in made] == [404] * (OFTEN - 1) + [200], "the last is kept"
    assert len(told(caplog, "no copy of what was folded can be made for node b")) == 1
    assert len(told(caplog, "node b, which the log has outrun, is given a copy")) == 1
