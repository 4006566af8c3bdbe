"""Services that are nodes of one cluster with one token, started together, ended with the block."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

from mooring_service.cluster import objects
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
    """Services that have their places, on a log of their own."""
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
    finally:
        for service in found.values():
            await service.clean_up()
