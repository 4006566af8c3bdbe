"""What hooks do in minutes and hours: real senders and receivers, by a clock that leaps over what is only waited for."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from mooring.events import Kind
from mooring.link.record import ConnectionCreated, ConnectionUpdate
from mooring_service.hooks import sender
from mooring_service.hooks.sender import SETTLE_S
from mooring_service.journal.journal import StoredConnection, StoredHook
from tests.proxies import free_port
from tests.receiver import Got, Receiver
from tests.service.hooks.driven import Driven, run

HOUR_S = 3_600.0


def test_an_hour_of_401_skips_nothing_costs_few_requests_and_then_all_is_delivered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        end = driven.loop.time() + HOUR_S
        async with Receiver(lambda got: 200 if driven.loop.time() >= end else 401) as receiver:
            await driven.events(50)
            await driven.make("shop", receiver.url, refused="skip", maxEvents=20)
            await driven.until(lambda: driven.hooks.record("shop").delivered == 50, HOUR_S + 120)
            await driven.until(lambda: driven.hooks.record("shop").status == "Active", 60)
            refused = [got for got in receiver.got if got.status == 401]
            assert len(refused) <= 100 and {len(got.events) for got in refused} == {20}, "neither skipped nor halved"
            waits = [after.at - before.at for before, after in itertools.pairwise(refused)]
            for at, wait in enumerate(waits):
                clock_s = min(60.0, 2.0**at)
                assert clock_s / 2 <= wait, f"{at}: {wait}"
            assert [event["event"]["data"] for event in receiver.taken] == [str(number) for number in range(1, 51)]
            record = driven.hooks.record("shop")
            assert (record.status, record.delivered, record.skipped) == ("Active", 50, 0)
            assert await driven.told() == ["hookFailing", "hookRecovered"], "once each, in an hour"

    run(scenario, tmp_path, monkeypatch)


def test_a_410_is_borne_and_another_one_half_a_minute_later_pauses_until_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        answers = [410, 200]
        async with Receiver(lambda got: answers.pop(0) if answers else 200) as receiver:
            await driven.events(3)
            await driven.make("shop", receiver.url)
            await driven.until(lambda: driven.hooks.record("shop").delivered == 3, 60)
            assert driven.hooks.record("shop").status == "Active"
            receiver.answer = lambda got: 410
            receiver.got.clear()
            await driven.events(2)
            await driven.until(lambda: driven.hooks.record("shop").next_attempt_at is not None, 60)
            borne_by = driven.loop.time()
            await driven.until(lambda: driven.hooks.record("shop").status == "Paused", 300)
            paused_by = driven.loop.time()
            record = driven.hooks.record("shop")
            assert record.reason == "gone"
            # The hook judges when an answer has come: behind the request's coming here, before what is seen of it.
            assert paused_by - receiver.got[0].at >= 30 > receiver.got[-2].at - borne_by
            assert await driven.told() == ["hookPaused"]
            receiver.answer = lambda got: 200
            await driven.hooks.resume("shop")
            await driven.until(lambda: len(receiver.taken) == 5, 60)
            assert [event["event"]["data"] for event in receiver.taken] == ["1", "2", "3", "4", "5"]

    run(scenario, tmp_path, monkeypatch)


@pytest.mark.parametrize(("asked_s", "least_s"), [("5", 5.0), ("999999", 3_600.0)])
def test_retry_after_is_kept_to_and_an_hour_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_s: str, least_s: float
) -> None:
    async def scenario(driven: Driven) -> None:
        def answer(got: Got) -> web.Response:
            first = len(receiver.got) == 1
            return web.Response(status=429 if first else 200, headers={"Retry-After": asked_s} if first else {})

        async with Receiver(answer) as receiver:
            await driven.events(1)
            await driven.make("shop", receiver.url)
            await driven.until(lambda: receiver.taken, 2 * HOUR_S)
            first, second = receiver.got
            assert least_s <= second.at - first.at <= 1.5 * least_s + 60.0

    run(scenario, tmp_path, monkeypatch)


def test_a_hundred_hooks_to_a_dead_port_try_less_than_four_times_a_second_in_all_for_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        port = free_port()
        await driven.events(10)
        begun = driven.loop.time()
        for number in range(100):
            await driven.make(f"dead-{number}", f"http://127.0.0.1:{port}/")
        counts = []
        for _ in range(10):
            await driven.until(lambda: driven.loop.time() >= begun + 60 * (len(counts) + 1), 61)
            counts.append(sum(hook.figures.attempts["failed"] for hook in driven.hooks.senders.hooks()))
        assert counts[-1] <= 4 * 600, counts
        rates = [(after - before) / 60 for before, after in itertools.pairwise(counts)]
        assert max(rates[1:]) <= 4.0 and min(rates) >= 1.0, rates
        told = await driven.told()
        assert told == ["hookFailing"] * 100, "each says it once"

    run(scenario, tmp_path, monkeypatch)


def test_what_comes_while_a_quiet_hooks_place_is_stored_is_posted_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        async with Receiver() as receiver:
            await driven.make("shop", receiver.url, kinds=["onTerminate"])
            save, times = driven.journal.save_hook, itertools.count()

            async def meanwhile(*args: Any, **kwargs: Any) -> None:
                await save(*args, **kwargs)
                if next(times) == 0:
                    await driven.events(1, Kind.onTerminate)

            monkeypatch.setattr(driven.journal, "save_hook", meanwhile)
            driven.loop.pass_by(SETTLE_S + 1)
            await driven.events(1)  # it is left out
            await driven.until(lambda: receiver.taken, 20)

    run(scenario, tmp_path, monkeypatch)


def test_a_verb_is_heard_also_while_it_is_stored_that_the_hook_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        def answer(got: Got) -> web.Response:
            return web.Response(status=200 if len(receiver.got) > 1 else 400, headers={"Retry-After": "3600"})

        async with Receiver(answer) as receiver:
            await driven.events(1)
            save, asked = driven.journal.save_hook, 0

            async def meanwhile(hook: StoredHook, *, fails_fast: bool = False) -> None:
                nonlocal asked
                await save(hook, fails_fast=fails_fast)
                if driven.hooks.record("shop").failing_since is not None and not asked:
                    asked += 1
                    driven.hooks.retry("shop")

            await driven.make("shop", receiver.url)
            monkeypatch.setattr(driven.journal, "save_hook", meanwhile)
            begun = driven.loop.time()
            await driven.until(lambda: receiver.taken, 2 * HOUR_S)
            assert asked == 1 and receiver.got[1].at - begun < HOUR_S / 2, "it was tried at once"

    run(scenario, tmp_path, monkeypatch)


def test_a_name_is_followed_also_while_a_receiver_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(driven: Driven) -> None:
        def opens_and_ends(connection: int) -> None:
            created = ConnectionCreated(connection, "ws://x/", "w", None, "text", [], 1, True, 10.0, 5.0, name="feed")
            update = ConnectionUpdate(connection, "Closed", 2, ended=True)
            driven.directory.recover("", [StoredConnection(created, update, "i", connection, 0)])

        def answer(got: Got) -> web.Response:
            return web.Response(status=200 if len(receiver.got) > 1 else 503, headers={"Retry-After": "3600"})

        async with Receiver(answer) as receiver:
            opens_and_ends(1)
            await driven.events(1)
            await driven.make("shop", receiver.url, connections=["feed"])
            await driven.until(lambda: receiver.got, 60)
            opens_and_ends(2)
            await driven.events(1, connection=2)
            await driven.events(1, connection=3)  # somebody else's
            half = driven.loop.time() + HOUR_S / 2
            await driven.until(lambda: driven.loop.time() > half, HOUR_S)
            assert driven.directory.prune() == [1, 2], "many have ended since: these are forgotten"
            await driven.until(lambda: len(receiver.taken) == 2, 2 * HOUR_S)
            assert [event["connection"] for event in receiver.taken] == [1, 2]

    run(scenario, tmp_path, monkeypatch)


def test_a_mistake_of_ours_is_told_once_also_of_a_hook_that_lingers_between_two_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mistakes = 0

    def decide(*_: Any, **__: Any) -> None:
        nonlocal mistakes
        mistakes += 1
        raise ValueError("wrong")

    async def scenario(driven: Driven) -> None:
        monkeypatch.setattr(sender, "BEGIN_ANEW_S", 0.01)
        monkeypatch.setattr(sender, "decide", decide)
        async with Receiver(lambda got: 200) as receiver:
            await driven.events(3)
            await driven.make("shop", receiver.url, linger=0.01)
            await driven.until(lambda: mistakes > 3, 60)

    run(scenario, tmp_path, monkeypatch)
    assert [record.getMessage() for record in caplog.records if "begins anew" in record.getMessage()] == [
        "hook shop begins anew"
    ]
