"""Starts of a node that waiting does not mend: each ends with 78 and one sentence; and what its user lacks in the engine is told while it waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mooring_service.cluster import message as wire
from mooring_service.cluster import objects
from mooring_service.cluster.engine import Engine
from tests.cluster_kit.nodes import ONE, THREE, running_engine
from tests.cluster_kit.running import configuration, running_services
from tests.cluster_kit.servers import EngineServers
from tests.conftest import ROOT, RunningService, wait_for
from tests.servers import EchoServer

END_S = 90.0  # a deadline, not a figure


async def refused(folder: Path, config: str) -> str:
    """Start a node that must not start; return the one line that says why, once it has ended with 78."""
    service = RunningService(folder, "--config", config)
    with service.log_path.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *service.program, "serve", "--state-dir", str(folder), "--listen", "127.0.0.1:0", "--config", config,
            stdout=asyncio.subprocess.DEVNULL, stderr=log, cwd=ROOT,
        )  # fmt: skip
    try:
        assert await asyncio.wait_for(process.wait(), END_S) == 78, service.log()
    finally:
        if process.returncode is None:
            process.kill()
    return next(line for line in reversed(service.log().splitlines()) if line.strip())


@asynccontextmanager
async def old_server(version: str) -> AsyncIterator[str]:
    """Speaks of the engine's protocol what a link needs."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        info = {"server_id": "old", "version": version, "headers": True, "max_payload": 1 << 20, "jetstream": True}
        writer.write(b"INFO " + json.dumps(info).encode() + b"\r\n")
        while line := await reader.readline():
            if line.startswith(b"PING"):
                writer.write(b"PONG\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_an_engine_that_is_too_old_or_has_no_jetstream_is_refused(tmp_path: Path) -> None:
    async with old_server("2.10.25") as url:
        told = await refused(tmp_path / "a", configuration(tmp_path, "a", "prod", [url]))
    assert f"the engine at {url} is nats-server 2.10.25: at least 2.14.4 is needed" in told
    plain = EngineServers(tmp_path / "plain", 1, jetstream=False).start_all()
    try:
        told = await refused(tmp_path / "b", configuration(tmp_path, "b", "prod", plain.urls))
    finally:
        plain.stop_all()
    assert "has no JetStream: start nats-server with a jetstream { } block" in told


async def test_a_stream_that_is_not_ours_and_a_log_of_a_later_version_are_refused(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    other = {**objects.stream_of(cluster_name, ONE), "max_bytes": 1 << 20, "deny_delete": False}
    await engine.api(f"STREAM.CREATE.{other['name']}", other, timeout_s=10)
    told = await refused(tmp_path / "a", configuration(tmp_path, "a", cluster_name, servers.urls))
    assert "is not as `mooring cluster init` makes it: deny_delete is " in told
    assert "remove it, or mend it with `nats stream edit`" in told
    later = f"{cluster_name}b"
    await objects.create(engine, later, THREE)
    message = msgspec.msgpack.encode([wire.VERSION + 1, "?"])
    await engine.put(objects.stream_name(later), objects.subject_of(later, "stranger"), message, 0)
    told = await refused(tmp_path / "b", configuration(tmp_path, "b", later, servers.urls))
    assert "start a later one" in told


async def test_what_does_not_fit_to_the_others_that_live_is_refused_and_they_go_on(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_services(servers, cluster_name, tmp_path, "a") as nodes, EchoServer() as echo:
        a = nodes["a"]
        one = (await a.open(echo.url))["id"]
        (tmp_path / "second").mkdir()
        path = configuration(tmp_path / "second", "a", cluster_name, servers.urls)
        told = await refused(tmp_path / "second" / "a", path)
        assert "another service is node 'a' of this cluster (life " in told
        assert "give this one a name of its own" in told
        told = await refused(tmp_path / "b", configuration(tmp_path, "b", cluster_name, servers.urls, dead_after=6))
        assert "cluster.dead_after is 6 here, and 7 at the node 'a': it must be equal" in told
        assert (await a.send(one, b"still here"))["sent"] == 1
        assert (await a.get("/v1/cluster"))["engine"]["status"] == "up"
        await a.stop()
        told = await refused(tmp_path / "a", configuration(tmp_path, "a", f"{cluster_name}x", servers.urls))
        assert f"this state directory is of the cluster '{cluster_name}', not of '{cluster_name}x'" in told


async def test_connections_from_before_the_cluster_are_not_taken_along(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    before = RunningService(tmp_path / "a")
    async with EchoServer() as echo:
        await before.start()
        await before.open(echo.url)
        await before.kill()
        told = await refused(tmp_path / "a", configuration(tmp_path, "a", cluster_name, servers.urls))
    assert "connections that have not ended, from before [cluster]: end them without it first" in told
    await before.clean_up()


LACKS = {
    "info": "$JS.API.STREAM.INFO.",
    "read": "$JS.API.STREAM.MSG.GET.",
    "log": "$JS.API.CONSUMER.CREATE.",
    "write": "mooring.granted.>",
    "answers": "_INBOX_answers.>",
    "commands": "mooring.granted.cmd.commands",
}


async def test_what_the_engine_does_not_grant_is_told_with_what_mends_it(tmp_path: Path) -> None:
    """A node waits for the grant: it may be given while it runs."""
    cluster = "granted"
    users = ['{ user: "init", password: "init" }']
    for name, lacking in LACKS.items():
        words = objects.grants(cluster, name).replace("…", "secret").split('"')
        users.append('"'.join("nothing" if word.startswith(lacking) else word for word in words))
    guarded = EngineServers(tmp_path / "guarded", 1, extra=f"authorization {{ users: [ {', '.join(users)} ] }}")
    (tmp_path / "password").write_text("secret")
    services = {}
    try:
        await asyncio.to_thread(guarded.start_all)
        async with running_engine(guarded.urls, user="init", password="init") as engine:
            await objects.create(engine, cluster, ONE)
        for name in LACKS:
            path = Path(configuration(tmp_path, name, cluster, guarded.urls))
            path.write_text(f'{path.read_text()}user = "{name}"\npassword_file = "{tmp_path / "password"}"\n')
            services[name] = RunningService(tmp_path / name, "--config", str(path))
        await asyncio.gather(*(service.start() for service in services.values()))
        for name, service in services.items():
            violated = (
                f"permissions violation for {'subscription' if name in ('answers', 'commands') else 'publish'} to "
            )
            subject = LACKS[name].lower().removesuffix(">")

            async def told(service: RunningService = service) -> list[str]:
                async with service.client.get("/readyz") as response:
                    ready = await response.json()
                    return [*ready["reasons"], *ready["degraded"]]

            async def it_is_told(name: str = name, wanted: tuple[str, ...] = (violated, subject)) -> bool:
                return any(
                    reason.startswith("engine: it grants us less than we need (mooring cluster init --grants): ")
                    and all(one in reason for one in wanted)
                    for reason in await told(services[name])
                )

            try:
                await wait_for(it_is_told, END_S)
            except AssertionError:
                raise AssertionError(f"{name}: {await told()}") from None
            assert service.process.poll() is None

            async def it_is_refused(service: RunningService = service) -> bool:
                return bool((await service.get("/v1/cluster"))["engine"]["status"] == "refused")

            await wait_for(it_is_refused, END_S)
    finally:
        await asyncio.gather(*(service.clean_up() for service in services.values()))
        guarded.stop_all()
