"""What is recorded is handed over: soon, in order, all of it, and without a wake-up for each event."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from functools import partial

import pytest

from mooring.link.messages import Opened, Report
from mooring.process.handing_over import HOLD_S
from tests.conftest import rounds, wait_for
from tests.workers.bare_worker import Service, bare_worker
from tests.workers.link.test_outbox import _Connection


def _seen(service: Service) -> list[bytes]:
    return [body for events in service.frames if events.kinds for body in events.bodies.split(b"\n")]


@rounds(1, 20)
async def test_whatever_two_threads_record_while_frames_are_told_as_stored_all_of_it_is_handed_over_in_order(
    rounds: int,
) -> None:
    for _ in range(rounds):
        seed = random.randrange(2**32)
        print(f"seed {seed}")
        service = Service()
        service.takes_frames = True
        async with bare_worker(service) as runtime:

            def record(one: int, runtime: object = runtime, seed: int = seed) -> None:
                chosen = random.Random(seed + one)
                connection = _Connection(one)
                for seq in range(1, 1_001):
                    runtime.outbox.add(connection, b"\x02", b"%d:%d" % (one, seq), seq)  # type: ignore[attr-defined]
                    runtime.wake()  # type: ignore[attr-defined]
                    if chosen.random() < 0.1:
                        time.sleep(chosen.choice((0, 0.0005, 0.002)))

            began_s = time.monotonic()
            told = 0
            recording = [threading.Thread(target=record, args=(one,)) for one in (1, 2)]
            for thread in recording:
                thread.start()
            chosen = random.Random(seed)
            while any(thread.is_alive() for thread in recording):
                await asyncio.sleep(chosen.choice((0, 0.001, 0.004, 0.03)))  # the last is longer than anything waits
                runtime.outbox.stored(runtime.outbox.number)
                told += 1
                runtime.outbox.flush_behind()
            await wait_for(lambda service=service: len(_seen(service)) == 2_000)
            for one in (b"1", b"2"):
                mine = [int(body[2:]) for body in _seen(service) if body[:1] == one]
                assert mine == list(range(1, 1_001))
            held_s = time.monotonic() - began_s
            print(f"{len(service.frames)} frames, {told} times told, in {held_s:.2f} s")
            assert len(service.frames) <= told + held_s / HOLD_S + 2, "in groups: each has waited for one of the two"


async def test_a_journal_that_is_slow_keeps_nothing_in_the_worker() -> None:
    service = Service()
    service.takes_frames = True
    async with bare_worker(service) as runtime:
        connection = _Connection(1)
        for seqs in ((1,), (2, 3, 4, 5)):  # nothing is ever told as stored
            for seq in seqs:
                runtime.outbox.add(connection, b"\x02", b"%d" % seq, seq)
                runtime.wake()
            await wait_for(lambda last=seqs[-1]: _seen(service) == [b"%d" % seq for seq in range(1, last + 1)])
        assert len(service.frames) == 2


async def test_an_answer_that_cannot_be_given_keeps_no_other_of_its_batch() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))
    wrong = ValueError("a report that cannot be made")

    def raises(after: int) -> Report:
        raise wrong

    service = Service()
    async with bare_worker(service) as runtime:
        for made in (partial(Opened, 1), raises, partial(Opened, 2), raises, partial(Opened, 3)):
            runtime.answer_behind(made)
        await wait_for(lambda: len(service.answers) == 3, 60)
    assert service.answers == [Opened(1, 0), Opened(2, 0), Opened(3, 0)]
    assert told == [wrong, wrong], "the loop tells of it"


async def test_at_the_end_all_answers_are_given_and_all_events_handed_over_whatever_raises() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))
    wrong = ValueError("a fault of ours")

    def raises(*_: object) -> Report:
        raise wrong

    service = Service()
    service.takes_frames = True
    async with bare_worker(service) as runtime:
        handing_over = runtime._handing_over
        handing_over.post(raises)
        handing_over.post(told.append, "behind it")
        for made in (partial(Opened, 1), raises, partial(Opened, 2)):
            handing_over.answer_behind(made)
        runtime.outbox.add(_Connection(1), b"\x02", b"1", 1)
        handing_over.end()
        # In this pass still: the loop may run no more.
        assert service.answers == [Opened(1, 1), Opened(2, 1)]
        assert _seen(service) == [b"1"]
        assert told == [wrong, "behind it", wrong], "the loop tells of it"


async def test_at_the_end_all_is_handed_over_also_where_what_a_frame_tells_cannot_be_made(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Faulty(_Connection):
        def take_created(self) -> None:
            taken.append(self)
            if len(taken) == 1:
                raise ValueError("a fault of ours")

    taken: list[Faulty] = []
    service = Service()
    async with bare_worker(service) as runtime:
        handing_over = runtime._handing_over
        handing_over.post(handing_over.answer_behind, partial(Opened, 1))
        handing_over.post(runtime.outbox.touch, Faulty(1))
        handing_over.end()
        # In this pass still: the loop may run no more.
        assert service.answers == [Opened(1, runtime.outbox.number)]
        assert [events.number for events in service.frames] == [runtime.outbox.number]
        assert "a fault of ours" in caplog.text


async def test_events_that_cannot_be_handed_over_hold_up_no_answer() -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))

    class Unended(_Connection):
        def mark_ended(self) -> None:
            raise wrong

    wrong = ValueError("a fault of ours")
    service = Service()
    async with bare_worker(service) as runtime:
        runtime.outbox.add(Unended(1), b"\x04", b"1", 1, ended=True)
        for request in (1, 2):
            runtime.answer_behind(partial(Opened, request))
        await wait_for(lambda: len(service.answers) == 2, 60)
    assert told == [wrong]
