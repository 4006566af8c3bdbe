"""The recipes of api/SINKS.md, as they stand on the page, against the real servers: killed in the middle, nothing is missing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import nats
import psycopg
import pytest
import redis
import yaml

from tests.conftest import ROOT, RunningService, wait_for
from tests.documented import program
from tests.receiver import all_events
from tests.servers import EchoServer
from tests.sinks import Nats, Postgres, Redis

Ids = Callable[[], list[str]]


@pytest.fixture
async def folder() -> AsyncIterator[Path]:
    """A folder that nobody may reach, too."""
    with tempfile.TemporaryDirectory(prefix="mooring-sink-") as made:
        os.chmod(made, 0o755)
        yield Path(made)


async def _fed(shared: RunningService, echo: EchoServer, source: Path, url: str, ids: Ids) -> list[str]:
    """Run the recipe, kill it in the middle, run it again; return the ids that must be there."""

    errors = source.parent / "errors"

    def run() -> subprocess.Popen[bytes]:
        env = {**os.environ, "MOORING_STATE_DIR": str(shared.state_dir)}
        with errors.open("ab") as file:
            return subprocess.Popen([sys.executable, str(source), url], env=env, stderr=file)

    def has(count: int) -> bool:
        assert not errors.read_text(), errors.read_text()
        return len(ids()) >= count

    record = await shared.open(f"{echo.url}push?count=1500")
    recipe = run()
    try:
        await wait_for(lambda: has(100))
        recipe.kill()
        await asyncio.to_thread(recipe.wait)
        await shared.call("DELETE", f"/v1/connections/{record['id']}")
        recipe = run()
        expected = [event["id"] for event in await all_events(shared)]
        await wait_for(lambda: has(len(expected)))
    finally:
        recipe.kill()
        await asyncio.to_thread(recipe.wait)
    return expected


async def test_postgres_has_each_event_once(
    shared: RunningService, echo: EchoServer, folder: Path, tmp_path: Path
) -> None:
    async with Postgres(folder) as server:
        with psycopg.connect(server.url, autocommit=True) as database:

            def ids() -> list[str]:
                if database.execute("SELECT to_regclass('events')").fetchone() == (None,):
                    return []
                return [row[0] for row in database.execute("SELECT id FROM events")]

            expected = await _fed(shared, echo, program("api/SINKS.md", "to_postgres.py", tmp_path), server.url, ids)
            assert sorted(ids()) == sorted(expected)
            one = database.execute("SELECT event->>'data' FROM events WHERE kind = 'onMessage' LIMIT 1").fetchone()
            assert one is not None and one[0].isdigit()


async def test_redis_has_each_event_once_in_order(
    shared: RunningService, echo: EchoServer, folder: Path, tmp_path: Path
) -> None:
    async with Redis(folder) as server:
        database = redis.Redis.from_url(server.url, decode_responses=True)

        def ids() -> list[str]:
            return [fields["id"] for _, fields in database.xrange("mooring")]

        expected = await _fed(shared, echo, program("api/SINKS.md", "to_redis.py", tmp_path), server.url, ids)
        assert ids() == expected
        database.close()


async def test_jetstream_has_each_event_once_in_order(
    shared: RunningService, echo: EchoServer, folder: Path, tmp_path: Path
) -> None:
    async with Nats(folder) as server:
        source = program("api/SINKS.md", "to_nats.py", tmp_path)
        broker = await nats.connect(server.url)
        stream = broker.jetstream()
        count = [0]

        async def look() -> None:
            while True:
                try:
                    count[0] = (await stream.stream_info("mooring")).state.messages
                except (nats.js.errors.NotFoundError, nats.errors.TimeoutError):
                    pass
                await asyncio.sleep(0.05)

        looking = asyncio.create_task(look())
        expected = await _fed(shared, echo, source, server.url, lambda: [""] * count[0])
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        got = []
        subscription = await stream.subscribe("mooring.>", ordered_consumer=True)
        while len(got) < len(expected):
            got.append(json.loads((await subscription.next_msg(timeout=60)).data)["id"])
        assert got == expected and count[0] == len(expected)
        await broker.close()


KNOWN = {
    "http_server": {"type", "address", "path", "framing", "decoding"},
    "file": {"type", "inputs", "path", "encoding", "acknowledgements"},
}
"""What Vector's reference has for the two components, of what the page uses."""


def test_the_configurations_of_vector_and_connect_have_the_form_of_their_references(tmp_path: Path) -> None:
    """Neither program can be had here, so this is all that is known of them; the page says so."""
    vector = yaml.safe_load(program("api/SINKS.md", "vector.yaml", tmp_path).read_text())
    assert set(vector) == {"sources", "sinks"}
    for one in (*vector["sources"].values(), *vector["sinks"].values()):
        assert set(one) <= KNOWN[one["type"]]
        assert set(one.get("inputs", [])) <= set(vector["sources"])
    connect = yaml.safe_load(program("api/SINKS.md", "connect.yaml", tmp_path).read_text())
    assert set(connect) == {"input", "output"} and set(connect["input"]) == {"http_server", "processors"}
    assert connect["input"]["processors"] == [{"unarchive": {"format": "lines"}}]
    addresses = [vector["sources"]["mooring"]["address"], connect["input"]["http_server"]["address"]]
    assert all(address.startswith("127.0.0.1:") for address in addresses), "they do not verify signatures"
    assert "not run" in (ROOT / "api" / "SINKS.md").read_text().partition("## Vector")[2]
