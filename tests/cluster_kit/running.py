"""Services that are nodes of one cluster with one token, started together, ended with the block."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from mooring_service.cluster import objects
from tests.cluster_kit.checker import check, cut_short
from tests.cluster_kit.nodes import THREE, running_engine
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, wait_for

READY_S = 60.0


def configuration(folder: Path, name: str, cluster: str, urls: list[str], dead_after: float = 5) -> str:
    path = folder / f"{name}.toml"
    secret = folder / "secret"
    secret.write_text("one secret of all nodes of this cluster\n")
    secret.chmod(0o600)
    path.write_text(
        f'[cluster]\nname = "{cluster}"\nnode = "{name}"\nengine = {json.dumps(urls)}\ndead_after = {dead_after}\nsecret_file = "{secret}"\n'
    )
    return str(path)


@contextlib.asynccontextmanager
async def running_services(
    servers: EngineServers, cluster: str, folder: Path, names: str = "abc", *options: str, dead_after: float = 5
) -> AsyncIterator[dict[str, RunningService]]:
    """Services that have their places, on a log of their own; at the end the law of the log is checked in what there is."""
    async with running_engine(servers.urls) as engine:
        await objects.create(engine, cluster, THREE)
    found = {}
    for name in names:
        path = configuration(folder, name, cluster, servers.urls, dead_after)
        found[name] = RunningService(folder / name, "--config", path, *options)
    try:
        await asyncio.gather(*(service.start() for service in found.values()))
        await asyncio.gather(*(wait_for(service.is_ready, READY_S) for service in found.values()))
        yield found
        await _holds(servers, cluster, folder, found)
    finally:
        for service in found.values():
            await service.clean_up()


async def _holds(servers: EngineServers, cluster: str, folder: Path, services: dict[str, RunningService]) -> None:
    """Check the law of the log: of those that were killed with what they had published until then."""
    living = {name: service for name, service in services.items() if service.process.poll() is None}

    async def all_is_published() -> bool:
        told = [await service.get("/v1/cluster") for service in living.values()]
        return not any(one["unreplicated"]["additions"] for one in told)

    await wait_for(all_is_published, READY_S)
    for service in living.values():
        await service.stop()
    async with running_engine(servers.urls) as engine:
        killed = await cut_short(engine, cluster, services)
        folders = {name: folder / name for name in services}
        # They have stopped one after the other, so none has read all that the last ones have said.
        await check(engine, cluster, folders, given_up=killed, partial=True)
