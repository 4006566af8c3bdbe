"""Answers that were given under an Idempotency-Key. Whoever asks again, after a crash of the service, gets the same answer.

Each instance belongs to one thread.
"""

from __future__ import annotations

from typing import Generic, TypeVar

KEPT = 1_000

Answer = TypeVar("Answer")


class KeyedAnswers(Generic[Answer]):
    """The latest `KEPT` answers, by key."""

    def __init__(self) -> None:
        self._answers: dict[str, Answer] = {}

    def get(self, key: str | None) -> Answer | None:
        """Return the answer under `key`, None if there is none, or no key."""
        return None if key is None else self._answers.get(key)

    def remember(self, key: str | None, answer: Answer) -> None:
        """Keep an answer, if there is a key; the oldest one goes."""
        if key is not None:
            self._answers[key] = answer
            while len(self._answers) > KEPT:
                del self._answers[next(iter(self._answers))]
