"""One socket obeys its recipe: from the handshake through the opening to ready, and then message by message. Pure.

It is told what came and what time it is, and says what is to be done (`Action`), in order. It holds no frame: what comes before
ready is held, and later delivered, by whoever asks. Made with the socket, and dropped with it; only `memory` outlives it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from mooring import json_text
from mooring.connection.keep_alive import KeepAlive
from mooring.connection.matcher import Frame, Glance
from mooring.connection.pointer import MISSING
from mooring.connection.recipe import MAX_REMEMBERED_BYTES, Recipe
from mooring.connection.requests import Ids
from mooring.connection.template import MessageTemplate, Unfilled, Values

MAX_ECHOES = 100  # an answer that the peer sends back, and that is answered again, would go on for ever


class Send(msgspec.Struct, frozen=True):
    """Write a frame; `stored`: once the journal holds the message that this answers."""

    payload: bytes
    binary: bool
    stored: bool = False


class Ready(msgspec.Struct, frozen=True):
    """All steps are done. `resumed`: None where the recipe cannot tell."""

    resumed: bool | None


class Failed(msgspec.Struct, frozen=True):
    """The opening has failed (112); `refused`: the ``fail`` of a step matched."""

    detail: str
    refused: bool = False


class Stopped(msgspec.Struct, frozen=True):
    """The end, for good (210): `rule` is the place in the recipe that says so."""

    rule: str
    detail: str


class Asked(msgspec.Struct, frozen=True):
    """The peer asks for a new socket. `url`: for that one attempt, as the peer wrote it: still to be checked."""

    url: str | None
    at_once: bool


class Unanswered(msgspec.Struct, frozen=True):
    """An answer that could not be filled: for the log and the metrics, the message itself goes its way."""

    rule: str
    unfilled: Unfilled


Action = Send | Ready | Failed | Stopped | Asked | Unanswered


class Heard(msgspec.Struct, frozen=True):
    """What follows from a message. `hidden`: it is a heartbeat, and no message for anybody."""

    actions: list[Action]
    hidden: bool = False


class Session:
    """A recipe on one socket.

    Args:
        recipe: What is obeyed.
        keep_alive: Whose ``hide`` counts here, too; None: there is none.
        memory: The remembered values of the id: read and changed.
        renewed: What ``renew`` has given for this attempt.
        secrets: By name, as they were read for this attempt.
        ids: ``nextId`` of the id.
        socket: The number that this socket will have.
    """

    __slots__ = (
        "_at",
        "_deadline",
        "_echoes",
        "_glance",
        "_ids",
        "_keep_alive",
        "_match",
        "_memory",
        "_recipe",
        "_renewed",
        "_resumed",
        "_secrets",
        "_sent",
        "_socket",
    )

    def __init__(
        self,
        recipe: Recipe,
        keep_alive: KeepAlive | None,
        memory: dict[str, Any],
        renewed: Mapping[str, Any],
        secrets: Mapping[str, str],
        ids: Ids,
        socket: int,
    ) -> None:
        self._recipe = recipe
        self._keep_alive = keep_alive
        self._memory = memory
        self._renewed = renewed
        self._secrets = secrets
        self._ids = ids
        self._socket = socket
        self._at = 0  # the step that is awaited, or the next one
        self._deadline = math.inf
        self._match: Any = MISSING  # what the newest ``expect`` matched
        self._resumed = False
        self._sent: dict[int, int] = {}  # of each rule, the hash of its last answer
        self._glance: Glance | Literal[False] | None = None  # made when it is ready; False: there can be none
        self._echoes = 0  # how many messages in a row were such an answer, and answered by its rule again

    @property
    def ready(self) -> bool:
        """Whether all steps are done."""
        return self._at >= len(self._recipe.opening)

    @property
    def step(self) -> int:
        """Which step it is at, from 1, as in the record."""
        return self._at + 1

    @property
    def deadline(self) -> float:
        """When `late` is due; infinity: no step is awaited."""
        return self._deadline

    def change(self, keep_alive: KeepAlive | None) -> None:
        """From now on another heartbeat is hidden."""
        self._keep_alive = keep_alive
        self._glance = None

    @property
    def listens(self) -> bool:
        """Whether messages matter to it once it is ready: if not, nobody need ask it."""
        recipe = self._recipe
        rules = recipe.answers or recipe.remember or recipe.forget or recipe.reconnect_when or recipe.stop_when
        return bool(rules or (self._keep_alive is not None and self._keep_alive.hide))

    def sees(self, items: list[tuple[int, bytes]]) -> bool:
        """Say, once it is ready, whether one of `items` may matter: where no JSON must be looked at for that, at a glance."""
        if self._glance is None:
            self._glance = self._make_glance()
        if not isinstance(self._glance, Glance) or self._glance.sees(items):
            return True
        self._echoes = 0
        return False

    def _make_glance(self) -> Glance | Literal[False]:
        recipe = self._recipe
        matchers = [*(rule.when for rule in recipe.answers), *(rule.when for rule in recipe.forget)]
        matchers += [*(rule.when for rule in recipe.reconnect_when), *recipe.stop_when]
        if self._keep_alive is not None:
            matchers += self._keep_alive.hide
        needs_json = bool(recipe.remember) or any(matcher.needs_json for matcher in matchers)
        return False if needs_json else Glance(matchers)

    def begin(self, now: float) -> list[Action]:
        """The handshake is done: return what is sent first, or `Ready`."""
        return self._go_on(now)

    def late(self, now: float) -> list[Action]:
        """Return what follows from the time: the step that is awaited has failed, if it is its time."""
        if now < self._deadline:
            return []
        self._deadline = math.inf
        return [Failed(f"step {self.step} of the opening was not answered in time")]

    def hear(self, frame: Frame, now: float) -> Heard:
        """Return what follows from a message."""
        recipe = self._recipe
        self._learn(frame)
        for index, matcher in enumerate(recipe.stop_when):
            if matcher.matches(frame):
                return Heard([Stopped(f"/recipe/stopWhen/{index}", "a message matched")])
        actions, hidden = self._answer(frame)
        if not self.ready:
            if recipe.resumed_when is not None and recipe.resumed_when.matches(frame):
                self._resumed = True
            actions += self._opening(frame, now)
        for rule in recipe.reconnect_when:
            if rule.when.matches(frame):
                found = None if rule.url_from is None else rule.url_from.get(frame.json)
                # An empty URL is not valid, so the attempt fails and says so; the ordinary one is not what was asked for.
                url = None if rule.url_from is None else found if isinstance(found, str) else ""
                actions.append(Asked(url, rule.at_once))
                break
        return Heard(actions, hidden or (self._keep_alive is not None and self._keep_alive.hides(frame)))

    def fill(self, template: MessageTemplate, message: Any = MISSING) -> bytes | Unfilled:
        """Return the payload of a message of this socket: of a step, an answer or a heartbeat."""
        next_id = self._ids.take() if template.needs.next_id else 0
        return template.fill(
            Values(
                names={**self._renewed, **self._memory},
                secrets=self._secrets,
                message=message,
                next_id=next_id,
                socket=self._socket,
            )
        )

    def _has(self, name: str) -> bool:
        return self._memory.get(name, self._renewed.get(name)) is not None

    def _learn(self, frame: Frame) -> None:
        for one in self._recipe.remember:
            if one.when is None or one.when.matches(frame):
                value = one.pointer.get(frame.json)
                if value is MISSING or value is None:
                    continue  # null is no value: what was known stays known until it is forgotten
                self._memory[one.name] = value
                if len(json_text.encode(value)) > MAX_REMEMBERED_BYTES:
                    del self._memory[one.name]  # an older one would be wrong
        for rule in self._recipe.forget:
            if rule.when.matches(frame):
                self._memory.pop(rule.name, None)

    def _answer(self, frame: Frame) -> tuple[list[Action], bool]:
        actions: list[Action] = []
        hidden = stored = echoed = False
        for index, rule in enumerate(self._recipe.answers):
            if not rule.when.matches(frame):
                continue
            place = f"/recipe/answers/{index}"
            if self._sent.get(index) == hash(frame.payload):
                echoed = True
                if self._echoes + 1 >= MAX_ECHOES:
                    return [Stopped(place, "the peer sends each answer back")], False
            hidden, stored = hidden or rule.hide, stored or rule.stored
            filled = self.fill(rule.send, frame.json if rule.send.needs.pointers else MISSING)
            if isinstance(filled, Unfilled):
                actions.append(Unanswered(place, filled))
            else:
                actions.append(Send(filled, rule.send.binary, rule.stored))
                self._sent[index] = hash(filled)
        self._echoes = self._echoes + 1 if echoed else 0
        return actions, hidden and not stored  # what an answer waits for must come into the journal

    def _opening(self, frame: Frame, now: float) -> list[Action]:
        step = self._recipe.opening[self._at]
        if step.fail is not None and step.fail.matches(frame):
            self._deadline = math.inf
            return [Failed(f"step {self.step} of the opening was refused", refused=True)]
        if step.expect is None or not step.expect.matches(frame):
            return []
        self._match = frame.json
        self._at += 1
        return self._go_on(now)

    def _go_on(self, now: float) -> list[Action]:
        """Send the steps whose turn has come, up to one that must be answered."""
        actions: list[Action] = []
        self._deadline = math.inf
        steps = self._recipe.opening
        while self._at < len(steps):
            step = steps[self._at]
            if (step.when is not None and not self._has(step.when)) or (
                step.unless is not None and self._has(step.unless)
            ):
                self._at += 1
                continue
            if step.send is not None:
                filled = self.fill(step.send, self._match)
                if isinstance(filled, Unfilled):
                    return [*actions, Failed(f"step {self.step} of the opening: {filled}")]
                actions.append(Send(filled, step.send.binary))
            if step.expect is not None:
                self._deadline = now + step.timeout_s
                return actions
            self._at += 1
        resumed = None if self._recipe.resumed_when is None else self._resumed
        return [*actions, Ready(resumed)]
