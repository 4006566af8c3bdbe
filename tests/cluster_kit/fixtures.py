"""Three real engine servers, started once by each process of the tests; each test has a cluster of a name of its own."""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.cluster_kit.servers import PROGRAM, EngineServers

_numbers = itertools.count(1)

needs_servers = pytest.mark.skipif(PROGRAM is None, reason="no nats-server here (its wheel is for x86_64 alone)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "servers" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.cluster)
            item.add_marker(needs_servers)


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
