"""The stream as it must be, and what a node refuses, one sentence each."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring_service.cluster import objects
from mooring_service.cluster.engine import Engine, EngineError
from mooring_service.cluster.objects import NoStream, WrongEngine
from tests.cluster_kit.nodes import ONE, THREE, running_engine
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for


async def test_what_init_makes_is_verified_and_made_once(engine: Engine, cluster_name: str) -> None:
    with pytest.raises(NoStream, match="mooring cluster init"):
        await objects.verify(engine, cluster_name)
    assert await objects.create(engine, cluster_name, THREE)
    assert await objects.verify(engine, cluster_name) == []
    assert not await objects.create(engine, cluster_name, THREE)


async def test_one_replica_is_right_only_where_init_was_asked_for_it(engine: Engine, cluster_name: str) -> None:
    assert await objects.create(engine, cluster_name, ONE)
    assert await objects.verify(engine, cluster_name) == []
    config = objects.stream_of(cluster_name, THREE)
    assert objects.differences({**config, "num_replicas": 1}, cluster_name) == [
        "it has 1 replicas, and init was not asked for so few"
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"subjects": ["other.>"]}, "subjects"),
        ({"storage": "memory"}, "storage"),
        ({"deny_delete": False}, "deny_delete"),
        ({"metadata": {}}, "mooring-schema"),
    ],
)
async def test_a_stream_that_somebody_else_made_is_refused_with_what_is_wrong(
    engine: Engine, cluster_name: str, change: dict[str, object], says: str
) -> None:
    wanted = objects.stream_of(cluster_name, ONE)
    made = {**wanted, "max_bytes": 1 << 20, **change}
    if "subjects" in change:
        made["subjects"] = [f"other.{cluster_name}"]
    await engine.api(f"STREAM.CREATE.{made['name']}", made, timeout_s=60)
    with pytest.raises(WrongEngine, match=says):
        await objects.verify(engine, cluster_name)


@pytest.mark.parametrize(("version", "refused"), [("2.10.25", True), ("2.14.3", True), ("", True), ("2.14.4", False)])
def test_an_engine_that_is_too_old_is_refused(version: str, refused: bool) -> None:
    if refused:
        with pytest.raises(WrongEngine, match=r"at least 2\.14\.4 is needed"):
            objects.check_version(version, "nats://a")
    else:
        assert "recommended" in (objects.check_version(version, "nats://a") or "")


def test_a_good_version_gives_no_warning() -> None:
    assert objects.check_version("2.15.1", "nats://a") is None
    assert objects.check_version("2.15.0-RC.1", "nats://a") is None


async def test_an_engine_without_jetstream_is_refused(servers: EngineServers, tmp_path: Path) -> None:
    plain = EngineServers(tmp_path / "plain", 1, jetstream=False).start_all()
    try:
        async with running_engine(plain.urls) as engine:
            with pytest.raises(WrongEngine, match="has no JetStream"):
                await objects.verify(engine, "none")
    finally:
        plain.stop_all()


async def test_what_init_grants_is_enough_for_a_node_and_too_little_to_delete_the_stream(
    servers: EngineServers, tmp_path: Path
) -> None:
    cluster = "granted"
    user = objects.grants(cluster, "a").replace("…", "secret")
    users = f'authorization {{ users: [ {{ user: "init", password: "init" }}, {user} ] }}'
    guarded = EngineServers(tmp_path / "guarded", 1, extra=users).start_all()
    try:
        async with running_engine(guarded.urls, user="init", password="init") as engine:
            await objects.create(engine, cluster, ONE)
        async with running_engine(guarded.urls, "a", user="a", password="secret") as node:
            assert await objects.verify(node, cluster) == []
            name, subject = objects.stream_name(cluster), objects.subject_of(cluster, "a")
            seq, _ = await node.put(name, subject, b"", 0)
            assert await node.last(name, subject) is not None
            assert await node.read(name, seq) is not None
            for verb in ("DELETE", "PURGE", "UPDATE"):
                with pytest.raises(EngineError):
                    await node.api(f"STREAM.{verb}.{name}", {"name": name}, timeout_s=0.3)
            await wait_for(lambda: "STREAM.UPDATE" in node.refusal.upper())
            assert await objects.verify(node, cluster) == []
    finally:
        guarded.stop_all()


async def test_messages_of_the_log_cannot_be_deleted_by_anyone(engine: Engine, cluster_name: str) -> None:
    await objects.create(engine, cluster_name, THREE)
    name = objects.stream_name(cluster_name)
    seq, _ = await engine.put(name, objects.subject_of(cluster_name, "a"), b"", 0)
    with pytest.raises(EngineError, match="not permitted"):
        await engine.api(f"STREAM.MSG.DELETE.{name}", {"seq": seq})
