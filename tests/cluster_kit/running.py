"""Services that are nodes of one cluster with one token, started together, ended with the block."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from mooring_service.cluster import objects
from tests.cluster_kit.checker import check, cut_short
from tests.cluster_kit.nodes import THREE, running_engine
from tests.cluster_kit.servers import EngineServers
from tests.conftest import RunningService, as_file, wait_for

READY_S = 60.0
ASK_AGAIN_S = 60.0
DEAD_AFTER_S = 7.0  # its lease is two thirds of it: a service that stands still for two or three seconds loses nothing


class RunningNode(RunningService):
    """A service that is a node, asked by somebody who comes again when that is what it is told to do.

    What needs the engine is answered within a second or two, or with 503 `engine-down` and when to come again: nothing was done. A busy
    machine may take longer at any time, and no test is about that. `patient`: False where the claim is that nobody is told so.
    """

    patient = True

    async def call(self, method: str, path: str, status: int | None = 200, **kwargs: Any) -> Any:
        data = kwargs.pop("data", None)
        if isinstance(data, io.IOBase):
            data = data.read()
        deadline = time.monotonic() + ASK_AGAIN_S
        while True:
            body = {} if data is None else {"data": as_file(data)}
            async with self.client.request(method, path, **kwargs, **body) as response:
                text = (await response.read()).decode(errors="replace")
                told = json.loads(text) if text else None
                is_told_to = self.patient and status not in (None, 503) and is_engine_down(response.status, told)
                if not is_told_to or time.monotonic() > deadline:
                    assert status in (None, response.status), f"{method} {path}: {response.status} {text}"
                    return told
            print(f"{method} {path}: once more: {told['detail']}")
            await asyncio.sleep(0.2)


def is_engine_down(status: int, told: Any) -> bool:
    """Say whether an answer is that the engine could not be asked in time."""
    return status == 503 and str(told["type"]).endswith(":engine-down")


def configuration(folder: Path, name: str, cluster: str, urls: list[str], dead_after: float = DEAD_AFTER_S) -> str:
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
    servers: EngineServers,
    cluster: str,
    folder: Path,
    names: str = "abc",
    *options: str,
    dead_after: float = DEAD_AFTER_S,
) -> AsyncIterator[dict[str, RunningService]]:
    """Services that have their places, on a log of their own; at the end the law of the log is checked in what there is."""
    async with running_engine(servers.urls) as engine:
        await objects.create(engine, cluster, THREE)
    found = {}
    for name in names:
        path = configuration(folder, name, cluster, servers.urls, dead_after)
        found[name] = RunningNode(folder / name, "--config", path, *options)
    try:
        await asyncio.gather(*(service.start() for service in found.values()))
        await asyncio.gather(*(wait_for(service.is_ready, READY_S) for service in found.values()))
        yield found
        await _holds(servers, cluster, folder, found)
    finally:
        for service in found.values():
            await service.clean_up()


async def all_is_read(nodes: dict[str, RunningService]) -> None:
    """Wait until each node shows all that any of them has committed."""

    async def is_read() -> bool:
        told = [await service.get("/v1/cluster") for service in nodes.values()]
        return not any(one["unreplicated"]["additions"] for one in told) and all(
            [await reads_all(service) for service in nodes.values()]
        )

    async def reads_all(service: RunningService) -> bool:
        path = "/v1/connections/1"  # nobody's: 404 once all is read that there is now
        async with service.client.get(path) as response:
            return response.status == 404

    await wait_for(is_read, 4 * READY_S)


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
