"""When workers are told that their events are stored: at once after quiet, at one time under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring.link.messages import Events, Stored
from mooring_service import passes, window
from mooring_service.config import Config, LimitsConfig
from mooring_service.service import Service
from tests.service.fake_worker import FakeWorker, FakeWorkers, running_service

RHYTHM_S = 6.0  # instead of milliseconds: a machine that stands still for seconds changes nothing
TOLD_S = 30.0


async def _started(service: Service, fakes: FakeWorkers, name: str) -> FakeWorker:
    last = service.feed.last
    starting = asyncio.create_task(service.workers.start(name))
    worker = await fakes.linked()
    await starting
    async with asyncio.timeout(TOLD_S):
        while service.feed.last == last:  # that it has started is told, too
            await asyncio.sleep(0.001)
    return worker


def _say(worker: FakeWorker, number: int, events: int) -> None:
    kinds = bytes((Kind.onMessage,)) * events
    worker.send(Events(number, bytes(8) * events, kinds, b"\n".join([b"{}"] * events)))


async def test_scattered_events_are_told_at_one_time_and_what_comes_after_quiet_or_floods_at_once(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service:
        one, two = [await _started(service, fakes, name) for name in ("one", "two")]
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)
        _say(one, 1, 3)
        told = await one.expect(Stored, TOLD_S)
        told_at = loop.time()
        assert told.number == 1
        assert not told.next_us, "at once after quiet: there is no rhythm in which to rest"
        monkeypatch.setattr(window, "TELL_S", RHYTHM_S)
        last = service.feed.last
        _say(one, 2, 3)
        _say(two, 1, 2)
        async with asyncio.timeout(TOLD_S):
            while service.feed.last < last + 5:
                await asyncio.sleep(0.001)
        for worker, number in ((one, 2), (two, 1)):
            told = await worker.expect(Stored, TOLD_S)
            assert told.number == number and told.next_us == RHYTHM_S * 1e6, (
                "both are told in the rhythm, and may rest so long"
            )
        assert loop.time() > told_at + RHYTHM_S / 2, "it was shown long before"
        _say(one, 3, 1_000)
        told = await one.expect(Stored, TOLD_S)
        assert told.number == 3 and not told.next_us, "who floods is told at once"


async def test_that_there_is_room_no_more_or_again_is_told_at_once_whatever_the_rhythm(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service:
        one, two = [await _started(service, fakes, name) for name in ("one", "two")]
        service.reconfigure(Config(limits=LimitsConfig(max_connections=2)))
        monkeypatch.setattr(window, "TELL_S", 600.0)
        monkeypatch.setattr(window, "TELL_MAX_S", 600.0)
        _say(two, 1, 3)  # the rhythm has begun
        one.opened(1, new=True)
        one.opened(2, new=True)
        for worker in (one, two):
            while (await worker.expect(Stored, TOLD_S)).full_at != 2:
                pass


def _shown_later(service: Service, pause_s: float, monkeypatch: pytest.MonkeyPatch) -> list[asyncio.Future[bool]]:
    """Have a pass over many subscribers that is followed by such a pause; return what many wait for then."""
    monkeypatch.setattr(passes, "PAUSE_MAX_S", pause_s)
    monkeypatch.setattr(passes, "WOKEN_S", pause_s)
    for _ in range(passes.FEW + 1):
        service.feed.wait(float("inf"))
    service.feed.wake()
    assert service.feed.passes.pause_s == pause_s
    return [service.feed.wait(float("inf")) for _ in range(passes.FEW + 1)]


async def test_one_event_alone_is_told_in_the_rhythm_too_while_many_subscribers_are_shown_it_later(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_service(tmp_path) as service:
        one = await _started(service, fakes, "one")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0.1)
        _say(one, 1, 1)
        told = await one.expect(Stored, TOLD_S)
        assert not told.next_us, "after quiet"
        monkeypatch.setattr(window, "TELL_S", RHYTHM_S)
        monkeypatch.setattr(window, "TELL_MAX_S", RHYTHM_S)
        shown = _shown_later(service, 30.0, monkeypatch)
        begun = loop.time()
        _say(one, 2, 1)
        told = await one.expect(Stored, TOLD_S)
        assert told.number == 2 and told.next_us == RHYTHM_S * 1e6
        assert loop.time() - begun > 0.1, "what comes meanwhile is of the same commit"
        assert not any(waiter.done() for waiter in shown), "nobody has missed anything by it"


async def test_where_many_are_shown_it_later_a_worker_is_told_a_little_before_that_and_all_of_it_is_one_commit(
    tmp_path: Path, fakes: FakeWorkers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "TELL_MAX_S", 30.0)
    monkeypatch.setattr(window, "AHEAD_S", 0.1)
    async with running_service(tmp_path) as service:
        one = await _started(service, fakes, "one")
        loop = asyncio.get_running_loop()
        shown = _shown_later(service, RHYTHM_S, monkeypatch)
        due = service.feed.passes.due_s
        _say(one, 1, 1)
        await one.expect(Stored, TOLD_S)  # nothing was told for long
        last = service.feed.last
        for number in range(2, 5):
            _say(one, number, 1)
        async with asyncio.timeout(TOLD_S):
            while service.feed.last < last + 3:
                await asyncio.sleep(0.001)
            told = await one.expect(Stored, TOLD_S)
            while told.number < 4:
                told = await one.expect(Stored, TOLD_S)
            assert told.next_us == RHYTHM_S * 1e6, "until about the pass behind the next one"
            assert loop.time() > due - 0.15, "not before what it sends then is in time for the pass"
            await asyncio.gather(*shown)
            assert loop.time() > due - 0.05
