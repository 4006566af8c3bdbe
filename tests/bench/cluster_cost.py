"""What a cluster costs the service that is flooded: its CPU an event beside that of a single service, in turns. Workers and servers do not count."""

from __future__ import annotations

import asyncio
import time
import urllib.error

from mooring_service.cluster import objects
from tests.bench import measure
from tests.bench.gateways import Mooring
from tests.cluster_kit.nodes import THREE, running_engine

READY_S = 60.0


class ServiceAlone(Mooring):
    """A service whose workers' CPU is not counted, which is ready once it has started."""

    def start(self) -> ServiceAlone:
        """Start it, and wait until it is ready."""
        super().start()
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            try:
                self.request("GET", "/readyz")
            except urllib.error.HTTPError:
                time.sleep(0.05)
            else:
                return self
        raise TimeoutError("it is not ready")

    def pids(self) -> list[int]:
        """The service's process."""
        return [self.process.pid]


def node(cluster: str, name: str, urls: list[str]) -> ServiceAlone:
    """Return a service that is a node, once it is started."""
    settings = {"NAME": cluster, "NODE": name, "ENGINE": ",".join(urls), "DEAD_AFTER": "60"}
    return ServiceAlone(env={f"MOORING_CLUSTER_{key}": value for key, value in settings.items()})


async def _make(cluster: str, urls: list[str]) -> None:
    async with running_engine(urls) as engine:
        await objects.create(engine, cluster, THREE)


def flood(cluster: str, urls: list[str], count: int) -> measure.Figures:
    """Flood one of three nodes, whose subscriber reads what the log shows of it."""
    asyncio.run(_make(cluster, urls))
    others = [node(cluster, name, urls).start() for name in "bc"]
    try:
        return measure.events(node(cluster, "a", urls), count)
    finally:
        for one in others:
            one.stop()


def alone(count: int) -> measure.Figures:
    """Flood a single service in the same way."""
    return measure.events(ServiceAlone(), count)
