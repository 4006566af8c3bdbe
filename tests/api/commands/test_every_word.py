"""What scripts say on the command line beside what people do: filters, keys, what is had by its name."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from mooring_api.client import BlockingClient, Client
from tests.command_line import mooring
from tests.conftest import RunningService, wait_for
from tests.end_to_end.test_queue import down
from tests.receiver import Receiver
from tests.servers import EchoServer


def lines_of(text: str) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


async def test_ls_filters_by_name_and_by_what_can_be_sent_to(shared: RunningService, echo: EchoServer) -> None:
    waits = await down(shared, echo)
    ready = (await shared.open(echo.url, name="word.ready"))["id"]
    for words, wanted in (
        (("--ready",), {ready}),
        (("--not-ready",), {waits}),
        (("--name", "word.ready"), {ready}),
        (("--name", "word.ready", "--not-ready"), set()),
    ):
        found = {one["id"] for one in lines_of((await mooring(shared, "ls", *words, "--json")).out)}
        assert found & {waits, ready} == wanted, words
    alone = await mooring(shared, "ls", "--node", "a")
    assert alone.code == 1 and "no node of a cluster" in alone.errors


async def test_open_has_one_of_a_name_and_does_not_wait(shared: RunningService, echo: EchoServer) -> None:
    asked = ("open", echo.url, "--name", "word.put", "--keep", "--put", "--json")
    made, again = [json.loads((await mooring(shared, *asked)).out)["id"] for _ in range(2)]
    assert made == again
    other = await mooring(shared, "open", f"{echo.url}x", "--name", "word.put", "--put")
    assert other.code == 1 and "word.put" in other.errors
    await mooring(shared, "close", "word.put")
    gone = lines_of((await mooring(shared, "ls", "--name", "word.put", "--json")).out)
    assert [(one["id"], one["status"]) for one in gone] == [(made, "Closed")]
    assert (await mooring(shared, "open", echo.url, "--put")).code == 2
    slow = json.loads((await mooring(shared, "open", f"{echo.url}slow?s=60", "--no-wait", "--json")).out)
    assert slow["status"] == "Connecting"
    await mooring(shared, "close", str(slow["id"]))


async def test_what_is_said_again_under_one_key_is_done_once(shared: RunningService, echo: EchoServer) -> None:
    key, keyed = "--idempotency-key", ("--idempotency-key", "word-1")
    numbers = [json.loads((await mooring(shared, "open", echo.url, *keyed, "--json")).out)["id"] for _ in range(2)]
    assert numbers[0] == numbers[1]
    number = str(numbers[0])
    for _ in range(2):
        assert (await mooring(shared, "send", number, "once", key, "word-2")).out == "sent 1 message, 4 bytes\n"
    async with Client(shared.url, shared.token) as client:
        for _ in range(2):
            assert (await client.send_lines(numbers[0], [b"1\n", b"2\n"], idempotency_key="word-3")).sent == 2
    await wait_for(lambda: echo.peers[0].received == ["once", "1", "2"])
    lines = await mooring(shared, "send", number, "-", key, "word-4", stdin=b"a\n")
    assert lines.code == 2 and "each line" in lines.errors


async def test_a_queue_is_dropped(shared: RunningService, echo: EchoServer) -> None:
    waits = str(await down(shared, echo))
    await mooring(shared, "send", waits, "abc", "--when-down", "queue")
    assert (await mooring(shared, "send", waits, "--drop-queue")).out == "dropped 1 message, 3 bytes\n"
    told = await mooring(shared, "send", waits, "--drop-queue", "-o", "json")
    assert json.loads(told.out) == {"messages": 0, "bytes": 0}
    for words in (("abc",), ("--ttl", "5"), ("--when-down", "queue"), ("--idempotency-key", "word-5")):
        assert (await mooring(shared, "send", waits, *words, "--drop-queue")).code == 2, words


async def test_a_request_need_not_be_waited_for(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url, requests="cdp")
    number = str(record["id"])
    assert (await mooring(shared, "request", number, '{"result": 1}', "--no-wait")).out == "1\n"

    def blocking() -> int | float | str:
        with BlockingClient(shared.url, shared.token) as client:
            return client.start_request(record["id"], {"result": 2}).id

    assert await asyncio.to_thread(blocking) == 2
    await wait_for(lambda: len(echo.peers[0].received) == 2)


async def test_tail_takes_several_workers_and_connections(shared: RunningService, echo: EchoServer) -> None:
    place = (await shared.get("/v1/events?after=now"))["next"]
    ids = [(await shared.open(echo.url, worker=f"word{n}", name=f"word.tail{n}"))["id"] for n in range(3)]
    behind = ("tail", "--kind", "onOpen", "--after", place, "--json", "--limit")
    for words, wanted in (
        (("--worker", "word1", "--worker", "word2"), [ids[1], ids[2]]),
        (("--connection", "word.tail0", "--connection", str(ids[2])), [ids[0], ids[2]]),
        (("--worker", "word2", "--connection", "word.tail0", "--connection", str(ids[2])), [ids[2]]),
    ):
        ran = await mooring(shared, *behind, str(len(wanted)), *words)
        assert [event["connection"] for event in lines_of(ran.out)] == wanted, words
    assert (await mooring(shared, "tail", "1", "--connection", "2")).code == 2


async def test_one_worker_is_shown(shared: RunningService, worker: str) -> None:
    await shared.call("PUT", f"/v1/workers/{worker}", 201)
    (shown,) = lines_of((await mooring(shared, "workers", "show", worker, "--json")).out)
    assert (shown["name"], shown["status"]) == (worker, "Running")
    unknown = await mooring(shared, "workers", "show", f"{worker}x")
    assert unknown.code == 1 and f"did you mean {worker!r}?" in unknown.errors
    # What is said of the list would be passed over.
    assert (await mooring(shared, "workers", "--node", "a", "show", worker)).code == 2


async def test_a_hook_takes_whatever_the_api_does(shared: RunningService) -> None:
    async with Receiver() as receiver:
        body = {"timeout": 7, "retry": {"delay": 2}, "paused": True}
        made = await mooring(shared, "hooks", "set", "word", receiver.url, "--body", json.dumps(body), "--json")
        record = json.loads(made.out)
        assert (record["timeout"], record["retry"]["delay"], record["status"]) == (7, 2, "Paused")
        for wrong in ('{"kinds": []}', '{"url": "x"}'):
            ran = await mooring(shared, "hooks", "set", "word", receiver.url, "--kind", "onOpen", "--body", wrong)
            assert ran.code == 2 and "a place of its own" in ran.errors
        await mooring(shared, "hooks", "rm", "word")
