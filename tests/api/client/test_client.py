"""The Python client, async and blocking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from mooring_api.client import ApiError, BlockingClient, Client
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


async def test_a_stream_by_name_is_of_the_connection_that_had_it_when_it_began(
    shared: RunningService, echo: EchoServer
) -> None:
    async with Client(shared.url, shared.token) as client:
        first = await client.put("stream.by.name", echo.url)
        seen = []
        async with asyncio.timeout(60):
            async for event in client.events(connection="stream.by.name"):
                seen.append((event.connection, event.kind))
                if event.kind == "onOpen":
                    await client.terminate(first.id)
                else:
                    second = await client.put("stream.by.name", echo.url)  # before the stream has said that it is over
        assert seen == [(first.id, "onOpen"), (first.id, "onTerminate")]
        assert second.id != first.id
        await client.terminate(second.id)


async def test_a_stream_of_several_by_name_is_of_those_that_had_the_names_when_it_began(
    shared: RunningService, echo: EchoServer
) -> None:
    async with Client(shared.url, shared.token) as client:
        place = (await client.page(after="now")).next
        made = [
            await client.open(echo.url, name=f"one.of.many.{number}", worker=f"many{number}") for number in range(3)
        ]
        for record in made:
            await client.send(record.id, "x")
        names = [made[0].name, made[1].id]
        page = await client.page(connections=names, kinds=["onOpen"], after=place)
        assert [event.connection for event in page.events] == [made[0].id, made[1].id]
        page = await client.page(worker="many1", connections=names, kinds=["onOpen"], after=place)
        assert [event.connection for event in page.events] == [made[1].id]
        seen = []
        async with asyncio.timeout(60):
            stream = client.events(connections=names, workers=["many0", "many2"], after=place)
            async for event in stream:
                seen.append((event.connection, event.kind))
                if event.kind == "onTerminate":
                    break
                if event.kind == "onMessage":
                    await client.terminate(made[0].id)
        assert seen == [(made[0].id, kind) for kind in ("onOpen", "onMessage", "onTerminate")]
        for wrong in (
            {"connection": made[0].id, "worker": "many0"},
            {"connection": made[0].id, "connections": [made[1].id]},
            {"worker": "many0", "workers": ["many1"]},
        ):
            with pytest.raises(ValueError):
                await client.page(**wrong)
            with pytest.raises(ValueError):
                await anext(client.events(**wrong))


async def test_what_is_no_connection_reaches_nothing_else(shared: RunningService, echo: EchoServer) -> None:
    async with Client(shared.url, shared.token) as client:
        record = await client.open(echo.url)
        for other in (f"{record.id}?code=4001", f"{record.id}/queue", f"{record.id}#x", f"x/../{record.id}", ".", ".."):
            for verb in (client.terminate, client.connection, client.drop_queue, client.reconnect, client.page):
                with pytest.raises(ApiError) as refused:
                    await verb(connection=other)
                assert refused.value.status == 404, (verb.__name__, other)
            with pytest.raises(ApiError):
                await anext(client.events(connection=other))
        assert (await client.connection(record.id)).status == "Connected"
        await client.terminate(record.id)


async def test_of_several_addresses_one_that_is_away_ends_none_of_the_requests_that_meet_with_it_together(
    shared: RunningService,
) -> None:
    for other in range(2, 4):  # addresses of which all but the last are away
        away = [f"http://127.0.0.1:{port}" for port in range(1, other)]
        async with Client([*away, shared.url], shared.token) as client:
            found = await asyncio.wait_for(asyncio.gather(*(client.workers() for _ in range(8))), 60)
            assert len(found) == 8
            assert client.url == shared.url


async def test_what_an_iterator_of_lines_raises_comes_out_of_the_send(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url)

    def lines() -> Iterator[bytes]:
        yield b"1\n"
        raise ZeroDivisionError

    async def lines_to_come() -> AsyncIterator[bytes]:
        for line in lines():
            yield line

    async with Client(shared.url, shared.token) as client:
        for body in (lines(), lines_to_come()):
            with pytest.raises(ZeroDivisionError):
                await asyncio.wait_for(client.send_lines(record["id"], body), 60)
        assert (await client.send_lines(record["id"], [b"2\n"])).sent == 1

    def blocking() -> None:
        with BlockingClient(shared.url, shared.token) as client, pytest.raises(ZeroDivisionError):
            client.send_lines(record["id"], lines())

    await asyncio.wait_for(asyncio.to_thread(blocking), 60)
