"""The Python client, async and blocking."""

from __future__ import annotations

import asyncio

from mooring_api.client import BlockingClient, Client
from tests.conftest import RunningService
from tests.servers import EchoServer


async def test_a_large_message_is_sent_without_a_warning_of_the_library_below(
    shared: RunningService, echo: EchoServer
) -> None:
    async with Client(shared.url, shared.token) as client:
        record = await client.open(echo.url)
        for message in (b"x" * 2**21, "x" * 2**21):
            assert (await client.send(record.id, message)).bytes == 2**21


async def test_the_client_has_every_verb_and_events_that_resume(shared: RunningService, echo: EchoServer) -> None:
    async with Client(shared.url, shared.token) as client:
        record = await client.open(echo.url, worker="w")
        await client.send(record.id, b"blob")
        await client.send(record.id, {"n": 1})
        assert (await client.connection(record.id)).worker == "w"
        assert "w" in [worker.name for worker in await client.workers()]
        page = await client.page(connection=record.id, after="start")
        assert page.events[0].kind == "onOpen"
        final = await client.terminate(record.id, 4001, "done")
        assert final.status == "Closed"
        kinds = [event.kind async for event in client.events(connection=record.id)]
        assert kinds[0] == "onOpen" and kinds[-1] == "onTerminate"
        assert (await client.kill_worker("w")).closed == 0

    def verbs(client: type) -> set[str]:
        return {name for name in dir(client) if not name.startswith("_")} - {"raw_events", "request", "token", "url"}

    assert verbs(BlockingClient) == verbs(Client)

    def blocking() -> list[str]:
        with BlockingClient(shared.url, shared.token) as client:
            record = client.open(echo.url)
            client.send(record.id, "text")
            assert client.send_lines(record.id, iter([b'{"n": 1}\n', b"[2]\n"])).sent == 2
            assert b"".join(client.backup()).startswith(b"SQLite format 3")
            client.terminate(record.id)
            return [event.kind for event in client.events(connection=record.id)]

    assert (await asyncio.to_thread(blocking))[-1] == "onTerminate"

    def given_up_late() -> str:
        with BlockingClient(shared.url, shared.token) as client:
            stream = client.events(connection=client.open(echo.url).id)
            kind = next(stream).kind
        stream.close()
        return kind

    assert await asyncio.to_thread(given_up_late) == "onOpen"
