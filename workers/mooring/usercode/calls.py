"""What becomes of a call: who is told what, and that a repeat of one under an Idempotency-Key runs nothing. In the context's thread."""

from __future__ import annotations

import msgspec

from mooring.link.keyed import KeyedAnswers
from mooring.link.messages import Call, Called, CallFailed
from mooring.usercode import failures
from mooring.usercode.host import CodeHost


class Calls:
    """The calls of one worker, once their turn has come."""

    def __init__(self, host: CodeHost) -> None:
        self._host = host
        self._answers: KeyedAnswers[Called | CallFailed] = KeyedAnswers()

    def repeated(self, call: Call) -> bool:
        """Say whether `call` has run before; then whoever asks again, after a crash of the service, has been answered."""
        known = self._answers.get(call.key)
        if known is None:
            return False
        self._answer(msgspec.structs.replace(known, request=call.request))
        return True

    def discarded(self, call: Call) -> None:
        """`call` does not run any more."""
        self._answer(CallFailed(call.request, "", "the worker is being killed", "", discarded=True))

    def done(self, call: Call, answer: Called | CallFailed) -> None:
        """`call` has run, or could not: the caller is told, or an event says what went wrong."""
        size = len(answer.result) if isinstance(answer, Called) else len(answer.message) + len(answer.traceback)
        self._answers.remember(call.key, answer, size)
        self._answer(answer)
        if isinstance(answer, CallFailed):
            error = failures.of_call(call.name, answer)
            failures.write_line(None, error)
            if not call.request:
                failures.record(self._host, None, error)

    def _answer(self, answer: Called | CallFailed) -> None:
        if answer.request:
            self._host.post(self._host.answer_call, answer)
