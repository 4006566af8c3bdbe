"""A recipe against a transcript, without a socket: what would be sent, and what would follow. Pure; time is that of the transcript."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec

from mooring.connection import session as acts
from mooring.connection.clocks import Beat, Clocks, Dead, Silent
from mooring.connection.kept_rules import Compiled
from mooring.connection.matcher import Frame
from mooring.connection.recipe import EMPTY
from mooring.connection.requests import Ids
from mooring.connection.session import Action, Session
from mooring.connection.template import Unfilled
from mooring.transcript import Line, is_meant

Mark = Literal["<", ">", "=", "!", "~"]


class Shown(msgspec.Struct, frozen=True):
    """One line of the rehearsal. ``<`` came, ``>`` would be sent, ``=`` tells what follows, ``!`` is wrong."""

    mark: Mark
    text: str
    hidden: bool = False


class _Over(Exception):
    """The socket would be over."""


class Rehearsal:
    """One go through a transcript.

    Args:
        values: What ``renew`` would have given. Secrets are shown as ``${secret:NAME}``.
    """

    def __init__(self, compiled: Compiled, values: Mapping[str, Any], data_timeout_s: float = 0.0) -> None:
        self._keep_alive = compiled.keep_alive
        secrets = {name: f"${{secret:{name}}}" for name in compiled.uses.secrets}
        self._session = Session(compiled.recipe or EMPTY, compiled.keep_alive, {}, values, secrets, Ids(), 1)
        self._data_timeout_s = data_timeout_s
        self._clocks: Clocks | None = None
        self._now = 0.0
        self._sent: list[bytes] = []
        self._shown: list[Shown] = []

    def run(self, lines: Sequence[Line]) -> Iterator[Shown]:
        """Go through `lines`, and return what is to be shown, in order."""
        try:
            self._obey(self._session.begin(self._now))
            yield from self._take()
            for line in lines:
                if line.kind == "~":
                    self._pass(line.seconds)
                elif line.kind == "<":
                    self._hear(line.text)
                elif not self._sent:
                    self._show("!", f"line {line.number}: nothing is sent, expected {line.text}")
                elif not is_meant(line.text, said := self._sent.pop(0)):
                    self._show(
                        "!", f"line {line.number}: {said.decode(errors='replace')} is sent, expected {line.text}"
                    )
                yield from self._take()
        except _Over:
            yield from self._take()
            return
        if self._clocks is None:
            self._show("!", f"it is not ready: step {self._session.step} of the opening is awaited")
        yield from self._take()

    def _take(self) -> Iterator[Shown]:
        shown, self._shown = self._shown, []
        return iter(shown)

    def _show(self, mark: Mark, text: str, *, hidden: bool = False) -> None:
        self._shown.append(Shown(mark, text, hidden))

    def _send(self, payload: bytes) -> None:
        self._sent.append(payload)
        self._show(">", payload.decode(errors="replace"))

    def _hear(self, text: str) -> None:
        frame = Frame(text.encode(), is_text=True)
        heard = self._session.hear(frame, self._now)
        hidden, clocks, keep_alive = heard.hidden, self._clocks, self._keep_alive
        expect = None if keep_alive is None else keep_alive.expect
        if clocks is not None and expect is not None and clocks.awaits and expect.matches(frame):
            clocks.answered()
            hidden = True
        if clocks is not None:
            if hidden:
                clocks.last_hidden_at = self._now
            else:
                clocks.last_message_at = self._now
        self._show("<", text, hidden=hidden)
        self._obey(heard.actions)

    def _obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case acts.Send(payload, stored=stored):
                    if stored:
                        self._show("=", "once the journal has it:")
                    self._send(payload)
                case acts.Ready(resumed):
                    self._clocks = Clocks(self._keep_alive, self._data_timeout_s, self._now)
                    self._show("=", "ready" if resumed is None else f"ready, resumed: {str(resumed).lower()}")
                case acts.Failed(detail, refused):
                    self._end(f"{detail}{' (refused: renewed once)' if refused else ''}", 112)
                case acts.Stopped(rule, detail):
                    self._end(f"{rule}: {detail}", 210)
                case acts.Asked(url, at_once):
                    where = "" if url is None else f" at {url}"
                    self._show(
                        "=", f"the server asks for another socket{where}, {'at once' if at_once else 'after a delay'}"
                    )
                    raise _Over
                case acts.Unanswered(rule, unfilled):
                    self._show("!", f"{rule} is not sent: {unfilled}")

    def _end(self, text: str, err_code: int) -> None:
        self._show("!", f"{err_code}: {text}")
        raise _Over

    def _pass(self, seconds: float) -> None:
        until = self._now + seconds
        self._show("~", f"{seconds:g} s")
        while True:
            clocks = self._clocks
            due = self._session.deadline if clocks is None else clocks.due_at
            if due > until:
                self._now = until
                return
            self._now = max(self._now, due)
            if clocks is None:
                self._obey(self._session.late(self._now))
                continue
            match clocks.check(self._now):
                case Beat():
                    assert self._keep_alive is not None and self._keep_alive.send is not None, "the clock beats for it"
                    filled = self._session.fill(self._keep_alive.send)
                    if isinstance(filled, Unfilled):
                        self._show("!", f"keepAlive is not sent: {filled}")
                    else:
                        self._send(filled)
                case Dead():
                    self._end("no answer to a heartbeat, or no heartbeat", 207)
                case Silent():
                    self._end(f"no message for {self._data_timeout_s:g} s", 208)
