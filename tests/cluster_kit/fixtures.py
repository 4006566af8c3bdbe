"""Three real engine servers, started once by each process of the tests; each test has a cluster of a name of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster_kit.servers import PROGRAM, EngineServers

TIMEOUT_S = 300

_numbers = itertools.count(1)

needs_servers = pytest.mark.skipif(PROGRAM is None, reason="no nats-server here (its wheel is for x86_64 alone)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(needs_servers)
            if not any(item.get_closest_marker(name) for name in ("long", "timeout")):
                item.add_marker(pytest.mark.timeout(TIMEOUT_S))  # several waits, of which each may be long


@pytest.fixture(scope="session")
def three_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineServers]:
    servers = EngineServers(tmp_path_factory.mktemp("engine") / "nats")
    try:
        yield servers.start_all()
    finally:
        servers.stop_all()


@pytest.fixture
def servers(three_servers: EngineServers) -> EngineServers:
    """All three, whatever the test before has done with them."""
    return three_servers.start_all()


@pytest.fixture
def cluster_name() -> str:
    return f"t{os.getpid()}-{next(_numbers)}"


@pytest.fixture
async def engine(servers: EngineServers) -> AsyncIterator[object]:
    from tests.cluster_kit.nodes import running_engine  # the extra may not be installed

    async with running_engine(servers.urls) as engine:
        yield engine


@pytest.fixture
async def nodes(
    request: pytest.FixtureRequest, servers: EngineServers, cluster_name: str, tmp_path: Path
) -> AsyncIterator[object]:
    """Begins services that are nodes (`services.Nodes`); all are stopped, and their workers gone, at the end."""
    from mooring_service.cluster import objects  # the extra may not be installed
    from tests.cluster_kit.nodes import THREE, running_engine
    from tests.cluster_kit.services import Nodes

    async with running_engine(servers.urls) as engine:
        await objects.create(engine, cluster_name, THREE)
    found = Nodes(tmp_path, cluster_name, servers)
    try:
        yield found
    finally:
        for service in found.all.values():
            await service.clean_up()
            if getattr(request.node, "failed", False):
                service.print_logs()


@pytest.fixture
async def ways(nodes: Any) -> AsyncIterator[Callable[[], object]]:
    """Ways of a node to the engine (`proxy.Proxies`); made behind `nodes`, so that these are stopped first."""
    from tests.cluster_kit.proxy import Proxies  # the extra may not be installed

    made: list[Proxies] = []

    def make() -> Proxies:
        made.append(Proxies(nodes.servers.ports))
        return made[-1]

    yield make
    for one in made:
        one.close()
