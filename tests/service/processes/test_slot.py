"""One worker as the service sees it: requests, their answers, and their deadlines."""

from __future__ import annotations

import asyncio
import time

import pytest

from mooring.errors import WorkerSilent
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.slot import SWEEP_S, Slot


def _slot() -> Slot:
    return Slot("main", RestartBudget(1, 1.0, 1.0, 1.0))


async def test_a_request_without_an_answer_ends_in_time() -> None:
    _, future = _slot().request(0.1)
    begun = time.monotonic()
    with pytest.raises(WorkerSilent):
        await future
    assert time.monotonic() - begun < 0.1 + 3 * SWEEP_S


async def test_what_was_answered_while_the_service_stood_still_is_an_answer() -> None:
    slot = _slot()
    number, future = slot.request(0.1)
    time.sleep(3 * SWEEP_S)
    asyncio.get_running_loop().call_later(0.01, slot.answer, number, "here")  # in the socket: read in the next pass
    assert await asyncio.wait_for(future, 2) == "here"


async def test_an_answer_waits_until_what_it_speaks_of_is_stored() -> None:
    slot = _slot()
    number, future = slot.request(5.0)
    slot.answer(number, "opened", after=7)
    slot.committed(6)
    assert not future.done()
    slot.committed(7)
    assert await future == "opened"
