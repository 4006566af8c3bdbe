"""Parts of a node, put together as tests need them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mooring_service.cluster.engine import Engine, EngineSettings
from mooring_service.cluster.objects import StreamSettings

THREE = StreamSettings(max_bytes=256 << 20)
ONE = StreamSettings(replicas=1, max_bytes=256 << 20)


@contextlib.asynccontextmanager
async def running_engine(urls: list[str], node: str = "test", **settings: Any) -> AsyncIterator[Engine]:
    """An engine's link that is up, and ends with the block."""
    engine = Engine(EngineSettings(urls=urls, node=node, **settings))
    running = asyncio.create_task(engine.run())
    try:
        await asyncio.wait_for(engine.up.wait(), 20)
        yield engine
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
