"""Hooks whose receiver refuses for a while: the first steps of the clock, and batches that are too large. Hours: `tests/service/hooks`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import RunningService, wait_for
from tests.receiver import Receiver, all_events, hook, told_of
from tests.servers import EchoServer, reset


async def test_the_retry_clock_doubles_to_its_longest_and_what_was_refused_comes_whole(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    record = await shared.open(f"{echo.url}push?count=5", worker=worker)
    await shared.events(record["id"], count=6)
    async with Receiver(lambda got: 401 if len(receiver.got) < 7 else 200) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], retry={"delay": 0.2, "maxDelay": 1})
        await receiver.until(6)
        waits = [after.at - before.at for before, after in itertools.pairwise(receiver.got)]
        for wait, clock_s in zip(waits, (0.2, 0.4, 0.8, 1.0, 1.0, 1.0), strict=True):
            assert wait >= clock_s / 2, "half of it is jitter"
        assert len({got.body for got in receiver.got}) == 1, "neither halved nor skipped"
        attempts = await wait_for(lambda: _attempts(shared, worker, 7))
        assert [attempt["status"] for attempt in attempts] == [200, *[401] * 6]
        assert (await shared.get(f"/v1/hooks/{worker}"))["skipped"] == 0
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def _attempts(shared: RunningService, name: str, count: int) -> list[dict[str, Any]] | None:
    """The last of them is there once its answer was read: a little behind the moment in which the receiver has taken it."""
    found: list[dict[str, Any]] = (await shared.get(f"/v1/hooks/{name}/attempts"))["attempts"]
    return found if len(found) >= count else None


async def test_a_receiver_that_refuses_all_is_held_after_ten_skips_and_nothing_more_is_lost(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    record = await shared.open(f"{echo.url}push?count=60", worker=worker)
    await shared.events(record["id"], count=61)
    ids = [event["id"] for event in await all_events(shared, f"&worker={worker}")]
    retry = {"delay": 0.1, "maxDelay": 1}
    async with Receiver(lambda got: 400) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], refused="skip", retry=retry)

        async def held() -> dict[str, Any] | None:
            shown = await shared.get(f"/v1/hooks/{worker}")
            return shown if shown["status"] == "Failing" and shown["held"] and shown["attempts"] > 3 else None

        shown = await wait_for(held, what="it is tried again and again")
        assert (shown["reason"], shown["skipped"], shown["delivered"]) == ("refused", 10, 0)
        assert [one["id"] for one in shown["held"]] == [ids[10]]
        found = await told_of(shared, worker, 11, "hookSkipped", "hookFailing")
        told = [(one["kind"], one["event"].get("through")) for one in found]
        assert told == [*[("hookSkipped", one) for one in ids[:10]], ("hookFailing", None)]
        receiver.answer = lambda got: 200
        await wait_for(lambda: receiver.ids == ids[10:], what="what was held, and all behind it")
        receiver.answer = lambda got: 400
        record = await shared.open(f"{echo.url}push?count=20", worker=worker)

        async def held_again() -> bool:
            return bool((await shared.get(f"/v1/hooks/{worker}"))["skipped"] == 20)

        await wait_for(held_again, what="after a success ten more may go")
    await shared.call("DELETE", f"/v1/hooks/{worker}")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("http://169.254.169.254/latest/meta-data/?t=canary", "169.254.169.254"),
        ("//[fd00:ec2::254]/canary", "fd00:ec2::254"),
        ("http://user:canary@shop.example/canary", "shop.example"),
        ("http://[canary", ""),
    ],
)
async def test_a_redirect_is_told_with_its_host_alone_and_followed_by_nothing(
    shared: RunningService, echo: EchoServer, worker: str, status: int, location: str, told: str
) -> None:
    answer = web.Response(status=status, headers={"Location": location})
    async with Receiver(lambda got: answer) as receiver:
        await hook(shared, worker, receiver.url, workers=[worker], retry={"delay": 60, "maxDelay": 60})
        await shared.open(echo.url, worker=worker)

        async def attempted() -> Any:
            return (await shared.get(f"/v1/hooks/{worker}"))["lastAttempt"]

        attempt = await wait_for(attempted)
        assert attempt["status"] == status and "redirects are not followed" in attempt["error"]
        assert (f" to {told};" if told else "a redirect;") in attempt["error"] and "canary" not in attempt["error"]
        assert len(receiver.got) == 1
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_receiver_that_takes_100_kilobytes_at_most_gets_all_in_batches_below_it(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    record = await shared.open(f"{echo.url}push?count=3000&size=1000", worker=worker)
    await shared.events(record["id"], count=3_001)
    expected = [event["id"] for event in await all_events(shared, f"&worker={worker}")]
    async with Receiver(lambda got: 413 if len(got.body) > 100_000 else 200) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], refused="skip")
        await wait_for(lambda: len(receiver.taken) >= len(expected), 60, "all of it")
        assert receiver.ids == expected, "each once, in order; none is skipped"
        taken = [len(got.body) for got in receiver.got if got.status == 200]
        refused = [got for got in receiver.got if got.status == 413]
        assert len(refused) < len(taken) / 4 and sorted(taken)[len(taken) // 2] > 50_000, "it has settled"
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_reset_within_the_answer_is_an_attempt_also_on_a_socket_that_was_used_before(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    seen: list[tuple[str, str]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().splitlines()
                headers = dict(line.split(": ", 1) for line in lines[1:] if line)
                await reader.readexactly(int(headers["content-length"]))
                seen.append((headers["webhook-id"], headers["mooring-attempt"]))
                if len(seen) == 2:
                    writer.write(b"HTTP/1.1 200 O")
                    reset(writer)
                    return
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        await hook(shared, worker, url, workers=[worker], kinds=["onOpen"], retry={"delay": 0.1, "maxDelay": 1})
        for count in (1, 3):
            await shared.open(echo.url, worker=worker)
            attempts = await wait_for(lambda count=count: _attempts(shared, worker, count))
        assert [attempt["status"] for attempt in attempts] == [200, None, 200]
        assert "was lost" in attempts[1]["error"]
        assert [attempt for _, attempt in seen] == ["1", "1", "2"] and seen[1][0] == seen[2][0]
        await shared.call("DELETE", f"/v1/hooks/{worker}")
