"""The event stream in its four forms: where it starts, what it leaves out, how it ends and resumes."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer

SSE = {"Accept": "text/event-stream"}
NDJSON = {"Accept": "application/x-ndjson"}


async def _three_messages(service: RunningService, echo: EchoServer, **options: object) -> int:
    record = await service.open(f"{echo.url}push?count=3", **options)
    await service.events(record["id"], count=4)
    return record["id"]


async def _closed(service: RunningService, echo: EchoServer) -> int:
    connection = await _three_messages(service, echo)
    await service.call("DELETE", f"/v1/connections/{connection}")
    return connection


async def _text(service: RunningService, path: str, headers: dict[str, str], status: int = 200) -> str:
    async with service.client.get(path, headers=headers) as response:
        assert response.status == status, await response.text()
        return await response.text()


async def test_sse_has_id_event_and_data_and_begins_with_retry(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    async with shared.client.get(f"/v1/connections/{connection}/events", headers=SSE) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        text = await response.text()
    assert text.startswith("retry: 1000\nid: "), "no blank line after retry: it would be an empty event to some"
    blocks = text.removeprefix("retry: 1000\n").strip("\n").split("\n\n")
    assert [block.split("\n")[1] for block in blocks] == [
        "event: onOpen",
        *["event: onMessage"] * 3,
        "event: onTerminate",
    ]
    for seq, block in enumerate(blocks, 1):
        id_line, event_line, data_line = block.split("\n")
        event = json.loads(data_line.removeprefix("data: "))
        assert id_line == f"id: {event['id']}"
        assert event_line == f"event: {event['kind']}"
        assert (event["seq"], event["connection"], event["worker"]) == (seq, connection, "main")
        assert event["time"].endswith("Z") and len(event["time"]) == 27


async def test_ndjson_sse_and_pages_carry_the_same_events(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    page = (await shared.get(path))["events"]
    lines = [json.loads(line) for line in (await _text(shared, path, NDJSON)).splitlines()]
    blocks = [
        json.loads(line[6:]) for line in (await _text(shared, path, SSE)).splitlines() if line.startswith("data: ")
    ]
    assert page == lines == blocks
    assert len(page) == 5


@pytest.mark.parametrize("form", [SSE, NDJSON])
async def test_resuming_past_the_end_answers_204(
    shared: RunningService, echo: EchoServer, form: dict[str, str]
) -> None:
    connection = await _closed(shared, echo)
    last = (await shared.record(connection))["lastEventId"]
    path = f"/v1/connections/{connection}/events"
    assert await _text(shared, path, {**form, "Last-Event-ID": last}, 204) == ""
    assert (await shared.get(f"{path}?after={last}"))["events"] == []


@pytest.mark.parametrize("form", [SSE, NDJSON])
async def test_a_filtered_stream_of_what_has_ended_answers_204_once_nothing_wanted_is_left(
    shared: RunningService, echo: EchoServer, form: dict[str, str]
) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events?kind=onMessage"
    ids = [event["id"] for event in (await shared.get(path))["events"]]
    assert len((await _text(shared, path, {**form, "Last-Event-ID": ids[1]})).splitlines()) in (1, 5)
    assert await _text(shared, path, {**form, "Last-Event-ID": ids[2]}, 204) == "", "an EventSource would loop"
    assert await _text(shared, f"/v1/connections/{connection}/events?kind=onError", form, 204) == ""
    assert "event: gap" in await _text(shared, path, {**SSE, "Last-Event-ID": "nonsense"})


async def test_a_stream_goes_to_its_end_also_when_its_connection_is_no_longer_retained(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_RETENTION_CLOSED_CONNECTIONS": "1", "MOORING_API_WRITE_TIMEOUT": "300"})
    record = await service.open(echo.url)
    other = await service.open(echo.url, worker="other")
    path = f"/v1/connections/{record['id']}/events"
    # More than the buffers between us and a subscriber that does not read; what its filter leaves out; then the end.
    async with service.client.get(path, headers=NDJSON, timeout=aiohttp.ClientTimeout(total=None)) as response:
        await _echo_many(service, record["id"], 30)
        await _echo_many(service, other["id"], 8)
        await service.call("DELETE", f"/v1/connections/{record['id']}")
        await service.call("DELETE", f"/v1/connections/{other['id']}")
        await wait_for(lambda: _is_gone(service, record["id"]))
        lines = (await response.read()).splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["onOpen", *["onMessage"] * 30, "onTerminate"]


async def _echo_many(service: RunningService, connection: int, count: int) -> None:
    for _ in range(count):
        await service.send(connection, "x" * 500_000)
    await wait_for(lambda: _received(service, connection, count))


async def _received(service: RunningService, connection: int, count: int) -> bool:
    return (await service.record(connection))["stats"]["messagesIn"] == count


async def _is_gone(service: RunningService, connection: int) -> bool:
    async with service.client.get(f"/v1/connections/{connection}") as response:
        return response.status == 404


async def test_a_stream_resumes_with_exactly_what_is_later(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    ids = [event["id"] for event in (await shared.get(path))["events"]]
    for at, cursor in enumerate(ids[:-1]):
        text = await _text(shared, path, {**NDJSON, "Last-Event-ID": cursor})
        assert [json.loads(line)["id"] for line in text.splitlines()] == ids[at + 1 :]
        assert [event["id"] for event in (await shared.get(f"{path}?after={cursor}"))["events"]] == ids[at + 1 :]


async def test_the_header_beats_the_query(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    ids = [event["id"] for event in (await shared.get(path))["events"]]
    page = await shared.get(f"{path}?after={ids[0]}", headers={"Last-Event-ID": ids[3]})
    assert [event["id"] for event in page["events"]] == ids[4:]


async def test_two_accept_headers_are_one_list(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    headers = CIMultiDict([("Accept", "text/html"), ("Accept", "text/event-stream")])
    async with shared.client.get(f"/v1/connections/{connection}/events", headers=headers) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")


async def test_an_empty_header_is_none_and_the_query_counts(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    ids = [event["id"] for event in (await shared.get(path))["events"]]
    page = await shared.get(f"{path}?after={ids[3]}", headers={"Last-Event-ID": ""})
    assert [event["id"] for event in page["events"]] == ids[4:]


async def test_filters_by_connection_worker_and_kind(shared: RunningService, echo: EchoServer) -> None:
    first = await _three_messages(shared, echo, worker="first")
    second = await _three_messages(shared, echo, worker="second")

    async def select(query: str) -> list[tuple[int | None, str]]:
        page = await shared.get(f"/v1/events?after=start&{query}")
        return [(event.get("connection"), event["kind"]) for event in page["events"]]

    assert await select(f"connection={first}") == [(first, "onOpen"), *[(first, "onMessage")] * 3]
    assert set(await select(f"connection={first},{second}&kind=onOpen")) == {(first, "onOpen"), (second, "onOpen")}
    assert await select("worker=second&kind=onMessage") == [(second, "onMessage")] * 3
    assert await select("kind=workerStarted&kind=onOpen&worker=first") == [(None, "workerStarted"), (first, "onOpen")]
    worker = await shared.get("/v1/workers/second/events?after=start&kind=onMessage,onOpen")
    assert [event["kind"] for event in worker["events"]] == ["onOpen", *["onMessage"] * 3]


async def test_a_page_takes_its_limit_and_next_goes_on(shared: RunningService, echo: EchoServer) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    seqs, after = [], "start"
    while True:
        page = await shared.get(f"{path}?after={after}&limit=2")
        seqs += [event["seq"] for event in page["events"]]
        after = page["next"]
        if not page["events"]:
            break
        assert len(page["events"]) <= 2
    assert seqs == [1, 2, 3, 4, 5]


async def test_a_long_poll_answers_with_the_next_event_or_nothing_in_time(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url)
    path = f"/v1/connections/{record['id']}/events"
    last = (await shared.get(path))["next"]
    loop = asyncio.get_running_loop()
    begun = loop.time()
    empty = await shared.get(f"{path}?after={last}&wait=0.3")
    assert empty["events"] == [] and 0.25 < loop.time() - begun < 10, "not the next heartbeat, which is after 15 s"
    poll = asyncio.create_task(shared.get(f"{path}?after={empty['next']}&wait=300"))
    await shared.send(record["id"], "hello")
    page = await asyncio.wait_for(poll, 60)
    assert [event["event"]["data"] for event in page["events"]] == ["hello"]


async def test_defaults_all_events_from_now_a_connections_from_its_start(
    shared: RunningService, echo: EchoServer
) -> None:
    connection = await _three_messages(shared, echo)
    assert (await shared.get("/v1/events"))["events"] == []
    assert (await shared.get("/v1/workers/main/events"))["events"] == []
    assert len((await shared.get(f"/v1/connections/{connection}/events"))["events"]) == 4
    assert (await shared.get(f"/v1/connections/{connection}/events?after=now"))["events"] == []


@pytest.mark.parametrize(
    "cursor", ["nonsense", "0000abcd-5", "{epoch}-999999", "{epoch}--1", "{epoch}-9223372036854775808"]
)
@pytest.mark.parametrize("form", ["page", "sse"])
async def test_a_cursor_that_cannot_be_continued_gets_a_gap_and_then_everything_kept(
    shared: RunningService, echo: EchoServer, cursor: str, form: str
) -> None:
    connection = await _closed(shared, echo)
    epoch = (await shared.record(connection))["lastEventId"].split("-")[0]
    cursor = cursor.format(epoch=epoch)
    path = f"/v1/connections/{connection}/events"
    if form == "page":
        events = (await shared.get(path, headers={"Last-Event-ID": cursor}))["events"]
    else:
        text = await _text(shared, path, {**SSE, "Last-Event-ID": cursor})
        events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    gap, *rest = events
    assert gap["kind"] == "gap"
    assert gap["event"]["type"] == "gap"
    assert gap["event"]["from"] == cursor
    assert gap["event"]["to"] == gap["id"]
    assert gap["event"]["lost"] is None
    assert "connection" not in gap and "seq" not in gap
    assert [event["kind"] for event in rest] == ["onOpen", *["onMessage"] * 3, "onTerminate"]
    again = (await shared.get(f"{path}?after={gap['id']}"))["events"]
    assert again == rest, "a gap's id moves the cursor like any other"


async def test_what_was_pruned_is_a_gap_that_counts_what_is_lost(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service(env={"MOORING_JOURNAL_MAX_EVENTS": "1000"})
    record = await service.open(echo.url)
    first = (await service.get("/v1/events?after=start&limit=1"))["events"][0]["id"]
    lines = "".join(f'{{"n":{n}}}\n' for n in range(1_000))

    async def after(cursor: str) -> dict[str, Any]:
        return (await service.get(f"/v1/events?after={cursor}&limit=1"))["events"][0]

    async def pruned() -> tuple[dict[str, Any], str] | None:
        await service.send(record["id"], lines, "application/x-ndjson")
        gap = await after(first)
        if gap["kind"] != "gap":
            return None
        oldest = (await after(gap["id"]))["id"]
        again = await after(first)
        return (gap, oldest) if again["id"] == gap["id"] else None  # it may have been pruned once more in between

    gap, oldest = await wait_for(pruned)
    position = int(oldest.split("-")[1])
    assert gap["event"]["lost"] == position - 1 - int(first.split("-")[1])
    assert gap["event"]["from"] == first


@pytest.mark.parametrize("form", [SSE, NDJSON])
async def test_a_stream_whose_journal_cannot_be_read_is_cut_and_not_ended(
    service: RunningService, echo: EchoServer, form: dict[str, str]
) -> None:
    record = await service.open(echo.url)
    for _ in range(20):
        await service.send(record["id"], "x" * 100_000)
    await wait_for(lambda: _received(service, record["id"], 20))
    await service.stop()
    await service.start()  # what was in memory is gone
    with (service.state_dir / "journal.db").open("r+b") as file:
        half = file.seek(0, 2) // 2
        file.seek(half)
        file.write(b"\xa5" * half)
    async with service.client.get("/v1/events?after=start", headers=form) as response:
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(response.read(), 60)
    problem = await service.get("/v1/events?after=start&limit=1000", 507)
    assert "cannot be read" in problem["detail"]


@pytest.mark.parametrize("form", ["text/event-stream", "application/x-ndjson"])
async def test_a_proxy_that_speaks_http_1_0_gets_a_stream_that_ends_by_closing(
    shared: RunningService, echo: EchoServer, form: str
) -> None:
    connection = await _closed(shared, echo)
    path = f"/v1/connections/{connection}/events"
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(
        f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{shared.port}\r\nAccept: {form}\r\n"
        f"Authorization: Bearer {shared.token}\r\n\r\n".encode()
    )
    head, _, body = (await asyncio.wait_for(reader.read(-1), 60)).partition(b"\r\n\r\n")
    writer.close()
    assert head.split()[1] == b"200"
    assert body.decode() == await _text(shared, path, {"Accept": form})


async def test_an_idle_stream_carries_comments(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_API_HEARTBEAT": "0.1"})
    async with service.client.get("/v1/events", headers=SSE) as response:
        data = b""
        while data.count(b": keep-alive\n") < 3:
            data += await asyncio.wait_for(response.content.readany(), 60)
        assert b"\n\n" not in data, "a comment is not closed by a blank line"


async def test_a_stream_of_what_is_unknown_is_404(shared: RunningService) -> None:
    for path in ("/v1/connections/99999/events", "/v1/workers/nobody/events"):
        for form in (SSE, NDJSON, {"Accept": "application/json"}):
            async with shared.client.get(path, headers=form) as response:
                assert response.status == 404
                assert response.headers["Content-Type"].startswith("application/problem+json")


async def test_blobs_are_base64_and_objects_pass_byte_for_byte(shared: RunningService, echo: EchoServer) -> None:
    blob = await shared.open(f"{echo.url}binary?hex=00ff10", dataType="blob")
    event = (await shared.events(blob["id"], count=2))[1]["event"]
    assert event == {"type": "message", "data": "AP8Q", "encoding": "base64"}
    number = "12345678901234567890.123456789012345678901234567890"
    record = await shared.open(f"{echo.url}text?text=%7B%22n%22:{number}%7D", dataType="object")
    await shared.events(record["id"], count=2)
    text = await _text(shared, f"/v1/connections/{record['id']}/events", {"Accept": "application/json"})
    assert f'"data":{{"n":{number}}}' in text, "no number is rounded"


async def test_200_connections_over_4_workers_100_messages_each_way_exactly_once(
    service: RunningService, echo: EchoServer
) -> None:
    seen: dict[int, list[str]] = {}
    seqs: dict[int, int] = {}

    async def follow() -> None:
        async for event in service.stream("/v1/events?after=start"):
            connection = event.get("connection")
            if connection is None:
                continue
            seqs[connection] = seqs.get(connection, 0) + 1
            assert event["seq"] == seqs[connection]
            if event["kind"] == "onMessage":
                seen.setdefault(connection, []).append(event["event"]["data"])

    following = asyncio.create_task(follow())
    opened = await asyncio.gather(*(service.open(echo.url, worker=f"w{n % 4}") for n in range(200)))

    async def talk(connection: int) -> None:
        body = "".join(f'"{connection}:{n}"\n' for n in range(100))
        assert (await service.send(connection, body, "application/x-ndjson"))["sent"] == 100

    await asyncio.gather(*(talk(record["id"]) for record in opened))
    await wait_for(
        lambda: following.done() or (len(seen) == 200 and all(len(got) == 100 for got in seen.values())), 100
    )
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    for record in opened:
        connection = record["id"]
        assert seen[connection] == [f'"{connection}:{n}"' for n in range(100)]
