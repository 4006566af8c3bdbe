"""Alarms and turns of the connections of one worker: one of them that is wrong holds up none of the others."""

from __future__ import annotations

import asyncio

from mooring.bounds import RedialLimits
from mooring.process.redialling import Redialling
from tests.conftest import wait_for

URL = "ws://h.test/"
WRONG = ValueError("wrong")


class Waiting:
    """One who waits; `raises`: and then raises."""

    def __init__(self, name: str, called: list[str], *, raises: bool = False) -> None:
        self.name, self.called, self.raises = name, called, raises

    def due(self, now: float) -> None:
        self._call()

    def granted(self) -> None:
        self._call()

    def _call(self) -> None:
        self.called.append(self.name)
        if self.raises:
            raise WRONG


async def test_an_alarm_that_raises_holds_up_no_other_alarm() -> None:
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    redialling = Redialling(loop, RedialLimits())
    called: list[str] = []
    at = loop.time() + 0.02
    redialling.alarm(Waiting("wrong", called, raises=True), at)
    redialling.alarm(Waiting("at the same time", called), at)
    redialling.alarm(Waiting("later", called), at + 0.02)
    await wait_for(lambda: len(called) == 3)
    assert called == ["wrong", "at the same time", "later"]
    assert told == [WRONG], "the loop tells of it"


async def test_one_that_raises_at_its_turn_takes_nobody_elses_and_who_has_left_is_told_of_none() -> None:
    loop = asyncio.get_running_loop()
    told: list[object] = []
    redialling = Redialling(loop, RedialLimits(rate=0, at_once=4))
    called: list[str] = []
    wrong, leaving, third, fourth, fifth = everybody = [
        Waiting(name, called, raises=name == "wrong") for name in ("wrong", "leaving", "third", "fourth", "fifth")
    ]

    def tell(_: object, context: dict[str, object]) -> None:
        told.append(context.get("exception"))
        redialling.cancel(leaving)  # before it was told; that is the fifth one's turn now

    loop.set_exception_handler(tell)
    for who in everybody:
        redialling.take(who, URL)
    await wait_for(lambda: len(called) == 4)
    assert called == ["wrong", "third", "fourth", "fifth"]
    assert told == [WRONG], "the loop tells of it"
    assert redialling.waiting == 0
    for who in (wrong, third, fourth, fifth):
        redialling.done(who)
    redialling.take(leaving, URL)
    await wait_for(lambda: called[4:] == ["leaving"])


async def test_one_that_raises_at_its_turn_gives_it_back() -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda *_: None)
    redialling = Redialling(loop, RedialLimits(rate=0, at_once=1))
    called: list[str] = []
    redialling.take(Waiting("wrong", called, raises=True), URL)
    redialling.take(Waiting("next", called), URL)
    await wait_for(lambda: called == ["wrong", "next"])
