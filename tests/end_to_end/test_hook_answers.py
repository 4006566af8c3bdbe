"""What a hook does about each kind of answer of a real receiver, and what can be done about a hook meanwhile."""

from __future__ import annotations

import asyncio
import email.utils
import time
from typing import Any

import pytest
from aiohttp import web

from tests.conftest import RunningService, wait_for
from tests.proxies import free_port
from tests.receiver import Got, Receiver, all_events, hook, told_of
from tests.servers import EchoServer

QUICK = {"delay": 0.1, "maxDelay": 1}
SLOW = {"delay": 60, "maxDelay": 3_600}  # or half of that


async def _feed(shared: RunningService, echo: EchoServer, worker: str, count: int, **query: Any) -> list[str]:
    """Have `count` messages (and an onOpen) of `worker` in the journal; return the ids of its events."""
    more = "".join(f"&{name}={value}" for name, value in query.items())
    record = await shared.open(f"{echo.url}push?count={count}{more}", worker=worker)
    await shared.events(record["id"], count=count + 1)
    return [event["id"] for event in await all_events(shared, f"&worker={worker}")]


async def _until(shared: RunningService, name: str, **wanted: Any) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        record = await shared.get(f"/v1/hooks/{name}")
        return record if all(record[key] == value for key, value in wanted.items()) else None

    return await wait_for(look, what=f"{name}: {wanted}")


async def test_a_poison_event_is_held_alone_and_skip_frees_it(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 499)
    poison = ids[337]
    refuses = [True]
    async with Receiver(
        lambda got: 400 if refuses[0] and any(e["id"] == poison for e in got.events) else 200
    ) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], retry=SLOW)
        record = await _until(shared, worker, status="Failing", reason="refused")
        assert receiver.ids == ids[:337] and len(receiver.got) <= 12
        held = (await shared.get(f"/v1/hooks/{worker}"))["held"]
        assert [one["id"] for one in held] == [poison] and "data" not in str(held)
        assert record["attempts"] == 1 and record["nextAttemptAt"] and record["lastAttempt"]["status"] == 400
        assert (await shared.get("/readyz"))["hooks"] == [worker]
        assert await shared.call("POST", f"/v1/hooks/{worker}/skip", json={"through": poison}) == {"skipped": 1}
        await wait_for(lambda: receiver.ids == [one for one in ids if one != poison])
        told = await told_of(shared, worker, 3, "hookFailing", "hookSkipped", "hookRecovered")
        assert [event["kind"] for event in told] == ["hookFailing", "hookSkipped", "hookRecovered"]
        assert told[1]["event"] == {
            "type": "hookSkipped", "hook": worker, "from": poison, "through": poison, "count": 1, "status": 400,
        }  # fmt: skip
        assert not {"connection", "worker", "seq"} & set(told[0])
        assert (await shared.get(f"/v1/hooks/{worker}"))["skipped"] == 1
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_with_skip_one_is_skipped_by_itself(shared: RunningService, echo: EchoServer, worker: str) -> None:
    ids = await _feed(shared, echo, worker, 99)
    async with Receiver(lambda got: 422 if any(e["id"] == ids[50] for e in got.events) else 200) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], refused="skip")
        await receiver.until(len(ids) - 1)
        assert receiver.ids == ids[:50] + ids[51:]
        await _until(shared, worker, status="Active", skipped=1, delivered=len(ids) - 1)
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_retry_has_the_same_id_and_a_time_and_signature_of_its_own(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 3)

    async def answer(got: Got) -> int:
        if len(receiver.got) == 1:
            await asyncio.sleep(1.3)  # so that the second differs
            return 500
        return 200

    async with Receiver(answer) as receiver:
        made = await hook(shared, worker, receiver.url, after="start", workers=[worker], retry=QUICK)
        await receiver.until(len(ids))
        first, second = receiver.got
        assert first.id == second.id and first.body == second.body
        assert first.headers["webhook-timestamp"] != second.headers["webhook-timestamp"]
        assert [got.headers["mooring-attempt"] for got in (first, second)] == ["1", "2"]
        for got in (first, second):
            got.verify(made["secret"])
        assert receiver.ids == ids
    await shared.call("DELETE", f"/v1/hooks/{worker}")


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_waited_for(shared: RunningService, echo: EchoServer, worker: str, form: str) -> None:
    await _feed(shared, echo, worker, 1)

    def answer(got: Got) -> web.Response:
        value = "2" if form == "seconds" else email.utils.formatdate(time.time() + 2, usegmt=True)
        return web.Response(status=429, headers={"Retry-After": value}) if len(receiver.got) == 1 else web.Response()

    async with Receiver(answer) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], retry=QUICK)
        await receiver.until(2)
        waited = receiver.got[1].at - receiver.got[0].at
        assert waited >= (1.9 if form == "seconds" else 0.9)
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_retry_after_of_days_is_an_hour_and_retry_ends_it(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    await _feed(shared, echo, worker, 1)
    async with Receiver(lambda got: web.Response(status=503, headers={"Retry-After": "999999"})) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker])
        await wait_for(lambda: receiver.got)

        async def planned() -> Any:
            return (await shared.get(f"/v1/hooks/{worker}"))["nextAttemptAt"]

        at = await wait_for(planned)
        assert at <= time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(time.time() + 3_601))
        receiver.answer = lambda got: 200
        await shared.call("POST", f"/v1/hooks/{worker}/retry")
        await receiver.until(2)
        assert (await shared.get(f"/v1/hooks/{worker}/attempts"))["attempts"][-1]["retryAfter"] == 999_999
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_one_410_is_borne_and_the_receivers_word_pauses(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 3)
    answers = iter([410, 200])
    async with Receiver(lambda got: next(answers, 200)) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], retry=QUICK)
        await receiver.until(len(ids))
        await _until(shared, worker, status="Active")
        receiver.answer = lambda got: web.Response(status=404, headers={"webhook-delivery": "disable"})
        await _feed(shared, echo, worker, 1)
        await _until(shared, worker, status="Paused", reason="receiver")
        receiver.answer = lambda got: 200
        await shared.call("POST", f"/v1/hooks/{worker}/resume")
        await receiver.until(len(ids) + 2)
        assert receiver.ids[: len(ids)] == ids and len(set(receiver.ids)) == len(ids) + 2
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_redirect_is_not_followed_and_nothing_of_us_reaches_its_target(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    await _feed(shared, echo, worker, 1)
    async with Receiver() as canary:
        target = f"http://127.0.0.1:{canary.port}/x?secret=canary"
        async with Receiver(lambda got: web.Response(status=302, headers={"Location": target})) as receiver:
            await hook(
                shared, worker, receiver.url, after="start", workers=[worker], headers={"X-Api-Key": "canary-key"}
            )
            await wait_for(lambda: receiver.got)
            record = await wait_for(lambda: _attempted(shared, worker))
            assert not canary.got and receiver.got[0].headers["X-Api-Key"] == "canary-key"
            assert "redirect to 127.0.0.1" in record["error"] and "secret" not in record["error"]
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def _attempted(shared: RunningService, name: str) -> Any:
    return (await shared.get(f"/v1/hooks/{name}"))["lastAttempt"]


async def test_what_answered_after_its_timeout_comes_again_with_the_same_id(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 2)

    async def answer(got: Got) -> int:
        await wait_for(lambda: len(receiver.got) > 1)
        return 200

    async with Receiver(answer) as receiver:
        await hook(shared, worker, receiver.url, after="start", workers=[worker], retry=QUICK, timeout=1)
        await wait_for(lambda: len(receiver.got) >= 2)
        assert receiver.got[0].id == receiver.got[1].id and receiver.got[0].body == receiver.got[1].body
        await _until(shared, worker, delivered=len(ids))
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_socket_that_was_closed_while_idle_is_no_failure(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    port = free_port()
    async with Receiver(port=port) as receiver:
        await hook(shared, worker, receiver.url, workers=[worker])
        ids = await _feed(shared, echo, worker, 1)
        await receiver.until(len(ids))
        await _until(shared, worker, delivered=len(ids))
    async with Receiver(port=port) as again:  # all sockets of the first are closed
        await _feed(shared, echo, worker, 1)
        await again.until(2)
        attempts = (await shared.get(f"/v1/hooks/{worker}/attempts"))["attempts"]
        assert {attempt["status"] for attempt in attempts} == {200}
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_another_url_is_used_at_once_and_a_deleted_hook_posts_nothing_more(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 2)
    async with Receiver(lambda got: 500) as old, Receiver() as new:
        body = {"after": "start", "workers": [worker], "retry": SLOW}
        await hook(shared, worker, old.url, **body)
        await wait_for(lambda: old.got)
        await _until(shared, worker, attempts=1)
        record = await hook(shared, worker, new.url, 200, **body)
        assert record["generation"] == 1 and "secret" not in record
        await new.until(len(ids))
        assert new.ids == ids and len(old.got) == 1
        changed = await hook(shared, worker, new.url, 200, **{**body, "kinds": ["onTerminate"]})
        assert changed["generation"] == 2

        async def hang(got: Got) -> int:
            await asyncio.sleep(3600)
            return 200

        new.answer = hang
        await hook(shared, worker, new.url, 200, **body)
        await _feed(shared, echo, worker, 1)
        await wait_for(lambda: len(new.got) >= 2)
        await shared.call("DELETE", f"/v1/hooks/{worker}")
        count = len(new.got)
        await _feed(shared, echo, worker, 1)
        await shared.get(f"/v1/hooks/{worker}", 404)
        assert len(new.got) == count


async def test_secrets_overlap_and_then_the_old_one_is_refused(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    await shared.call("PUT", f"/v1/workers/{worker}", 201)
    async with Receiver() as receiver:
        old = (await hook(shared, worker, receiver.url, workers=[worker], kinds=["onMessage"]))["secret"]
        new = (await shared.call("POST", f"/v1/hooks/{worker}/secrets", 201, json={"expiresIn": 15}))["secret"]
        await _feed(shared, echo, worker, 1)
        await receiver.until(1)
        for secret in (old, new):
            receiver.got[0].verify(secret)
        assert receiver.got[0].headers["webhook-signature"].count("v1,") == 2

        async def one_is_left() -> bool:
            return len((await shared.get(f"/v1/hooks/{worker}"))["secrets"]) == 1

        await wait_for(one_is_left)
        await _feed(shared, echo, worker, 1)
        await receiver.until(2)
        receiver.got[-1].verify(new)
        with pytest.raises(Exception, match="No matching signature"):
            receiver.got[-1].verify(old)
    await shared.call("DELETE", f"/v1/hooks/{worker}")


@pytest.mark.parametrize("form", ["page", "event", "lines"])
async def test_each_format_carries_the_events_as_the_pages_of_the_api_do(
    shared: RunningService, echo: EchoServer, worker: str, form: str
) -> None:
    record = await shared.open(f"{echo.url}push?count=20", worker=worker)
    await shared.send(record["id"], 'ünï "cödé" 🎈\n')
    await shared.events(record["id"], count=22)
    async with shared.client.get(f"/v1/events?after=start&limit=1000&worker={worker}") as response:
        raw = (await response.read()).split(b'{"events":[', 1)[1].rsplit(b'],"next"', 1)[0]
    async with Receiver() as receiver:
        secret = (await hook(shared, worker, receiver.url, after="start", workers=[worker], format=form))["secret"]
        await receiver.until(raw.count(b'{"id":"'))  # the worker's own start is among them
        if form == "page":
            assert b'"events":[' + raw + b"]}" in receiver.got[0].body or len(receiver.got) > 1
            assert receiver.got[0].verify(secret)["hook"] == worker
        elif form == "event":
            assert b",".join(got.body for got in receiver.got) == raw
            assert all(got.verify(secret)["id"] == got.headers["mooring-next"] for got in receiver.got[:-1])
        else:
            assert b",".join(line for got in receiver.got for line in got.body.splitlines()) == raw
        first = receiver.got[0]
        after, next_ = (
            (first.page["after"], first.page["next"])
            if form == "page"
            else (first.headers["mooring-after"], first.headers["mooring-next"])
        )
        assert first.id == f"{worker}-1_{after}_{next_}"
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_large_event_goes_thin_with_a_link_to_the_whole(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    async with Receiver() as receiver:
        await hook(shared, worker, receiver.url, workers=[worker], kinds=["onMessage"], maxEventBytes=5_000)
        await _feed(shared, echo, worker, 1, size=9_000)
        (event,) = await receiver.until(1)
        thin = event["event"]
        assert (thin["type"], thin["omitted"]) == ("message", "size") and thin["bytes"] > 9_000
        whole = (await shared.get(thin["href"]))["events"][0]
        assert whole["id"] == event["id"] and len(whole["event"]["data"]) == 9_000
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_what_hooks_say_goes_to_none_that_did_not_ask(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    async with Receiver() as plain, Receiver() as asking:
        await hook(shared, worker, plain.url)
        await hook(shared, f"{worker}-h", asking.url, kinds=["hookPaused", "hookFailing"])
        await shared.call("POST", f"/v1/hooks/{worker}/pause", json={"reason": "for the test"})
        (event,) = await asking.until(1)
        assert event["event"] == {"type": "hookPaused", "hook": worker, "reason": "for the test"}
        await shared.call("POST", f"/v1/hooks/{worker}/resume")
        await _feed(shared, echo, worker, 1)
        await plain.until(2)
        assert not [event for event in plain.taken if event["kind"].startswith("hook")]
    for name in (worker, f"{worker}-h"):
        await shared.call("DELETE", f"/v1/hooks/{name}")


async def test_a_test_is_posted_also_while_paused_and_moves_nothing(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    async with Receiver() as receiver:
        made = await hook(shared, worker, receiver.url, workers=[worker], paused=True, format="lines")
        assert made["status"] == "Paused"
        await _feed(shared, echo, worker, 1)
        tested = await shared.call("POST", f"/v1/hooks/{worker}/test", None)
        while "status" in tested and tested["status"] == 429:
            await asyncio.sleep(0.2)
            tested = await shared.call("POST", f"/v1/hooks/{worker}/test", None)
        assert tested["status"] == 200
        page = receiver.got[0].verify(made["secret"])
        assert (page["events"], page["test"]) == ([], True) and page["after"] == page["next"] == made["cursor"]
        assert "_test-" in receiver.got[0].id and len(receiver.got) == 1
        assert (await shared.get(f"/v1/hooks/{worker}"))["cursor"] == made["cursor"]
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_a_replay_has_another_generation_and_two_hooks_other_ids(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 5)
    async with Receiver() as receiver:
        for name in (worker, f"{worker}-2"):
            await hook(shared, name, receiver.url, after="start", workers=[worker])
        await receiver.until(2 * len(ids))
        moved = await shared.call("POST", f"/v1/hooks/{worker}/cursor", json={"after": ids[2]})
        assert moved["generation"] == 2
        await receiver.until(3 * len(ids) - 3)
        assert receiver.ids[2 * len(ids) :] == ids[3:]
        assert len({got.id for got in receiver.got}) == len(receiver.got)
    for name in (worker, f"{worker}-2"):
        await shared.call("DELETE", f"/v1/hooks/{name}")


async def test_a_name_follows_its_connection_over_another_one(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    name = f"feed-{worker}"
    async with Receiver() as receiver:
        await hook(shared, worker, receiver.url, connections=[name], after="now")
        for _ in range(2):
            record = await shared.open(f"{echo.url}push?count=3", worker=worker, name=name)
            await shared.open(f"{echo.url}push?count=3", worker=worker)
            await shared.events(record["id"], count=4)
            await shared.call("DELETE", f"/v1/connections/{record['id']}")
        await receiver.until(10)
        assert [event["kind"] for event in receiver.taken] == ["onOpen", *["onMessage"] * 3, "onTerminate"] * 2
        assert len({event["connection"] for event in receiver.taken}) == 2
        await shared.call("POST", f"/v1/hooks/{worker}/cursor", json={"after": "start"})
        await receiver.until(20)
        assert receiver.ids[10:] == receiver.ids[:10]
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_another_url_is_used_at_once_also_when_it_comes_during_an_attempt_that_fails(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    ids = await _feed(shared, echo, worker, 1)

    async def late(got: Got) -> int:
        await changed.wait()
        return 500

    changed = asyncio.Event()
    async with Receiver(late) as old, Receiver() as new:
        body = {"after": "start", "workers": [worker], "retry": SLOW, "timeout": 60}
        await hook(shared, worker, old.url, **body)
        await wait_for(lambda: old.got)
        await hook(shared, worker, new.url, 200, **body)
        changed.set()
        await new.until(len(ids), 25)
    await shared.call("DELETE", f"/v1/hooks/{worker}")
