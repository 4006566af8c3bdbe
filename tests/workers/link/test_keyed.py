"""Answers that a repeated request is given again: the latest ones, within bounds."""

from __future__ import annotations

from mooring.link.keyed import KEPT, KEPT_BYTES, KeyedAnswers
from mooring.link.messages import Call, Called, CallFailed
from tests.conftest import wait_for
from tests.workers.bare_worker import Service, bare_worker

MIB = 1024 * 1024


def kept(answers: KeyedAnswers[str], count: int) -> list[int]:
    return [number for number in range(count) if answers.get(f"k{number}") is not None]


def test_what_is_kept_is_bounded_in_count_and_bytes_and_the_oldest_go() -> None:
    small: KeyedAnswers[str] = KeyedAnswers()
    for number in range(KEPT + 5):
        small.remember(f"k{number}", "a")
    assert kept(small, KEPT + 5) == list(range(5, KEPT + 5))
    large: KeyedAnswers[str] = KeyedAnswers()
    for number in range(20):
        large.remember(f"k{number}", "a", 2 * MIB)
    assert kept(large, 20) == list(range(12, 20)), "eight of 2 MiB are 16 MiB"
    large.remember("k19", "b", 2 * MIB)
    assert kept(large, 20) == list(range(12, 20)), "a key counts once"
    large.remember("k0", "c", KEPT_BYTES + 1)
    assert kept(large, 20) == [0], "the last one is kept whatever its size"
    large.remember(None, "d", 1)
    large.remember("k1", "e", MIB)
    assert kept(large, 20) == [1]


def two_megabytes() -> str:
    return "x" * (2 * MIB)


def fails() -> None:
    raise ValueError("y" * (2 * MIB))


async def test_results_of_calls_count_by_their_bytes() -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        calls = [Call(1 + n, "f", f"{__name__}:two_megabytes", [], key=f"k{n}") for n in range(10)]
        calls += [Call(11, "f", f"{__name__}:fails", [], key="failed")]
        for call in calls:
            runtime.mailbox.post_call(call)
        await wait_for(lambda: len(service.answers) == 11)
        assert isinstance(service.answers[10], CallFailed)
        again = [0, 9]
        for n in again:
            runtime.mailbox.post_call(Call(100 + n, "f", "no_such_module:f", [], key=f"k{n}"))
        await wait_for(lambda: len(service.answers) == 13)
        assert isinstance(service.answers[11], CallFailed), "it would run again"
        assert isinstance(service.answers[12], Called), "it is remembered"
