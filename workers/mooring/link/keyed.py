"""Answers that were given under an Idempotency-Key. Whoever asks again, after a crash of the service, gets the same answer.

Each instance belongs to one thread.
"""

from __future__ import annotations

from typing import Generic, TypeVar

KEPT = 1_000
KEPT_BYTES = 16 * 1024 * 1024
"""Above it the oldest go first. Only what a service had not stored when it died is ever asked for again: the latest ones."""

Answer = TypeVar("Answer")


class KeyedAnswers(Generic[Answer]):
    """The latest answers, by key: at most `KEPT` of them and `KEPT_BYTES`, but the last one whatever its size."""

    def __init__(self) -> None:
        self._answers: dict[str, tuple[Answer, int]] = {}
        self._bytes = 0

    def get(self, key: str | None) -> Answer | None:
        """Return the answer under `key`, None if there is none, or no key."""
        found = None if key is None else self._answers.get(key)
        return None if found is None else found[0]

    def remember(self, key: str | None, answer: Answer, size: int = 0) -> None:
        """Keep an answer of `size` bytes, if there is a key; the oldest ones go."""
        if key is None:
            return
        self._forget(key)
        self._answers[key] = answer, size
        self._bytes += size
        while len(self._answers) > KEPT or (self._bytes > KEPT_BYTES and len(self._answers) > 1):
            self._forget(next(iter(self._answers)))

    def _forget(self, key: str) -> None:
        self._bytes -= self._answers.pop(key, (None, 0))[1]
