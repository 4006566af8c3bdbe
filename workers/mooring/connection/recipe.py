"""What is sent and awaited on each new socket, and which messages are answered by themselves: a recipe, ready to be obeyed.

Pure data: matchers and templates, immutable. `recipe_compiler` makes it of a request and says what is wrong with that.
"""

from __future__ import annotations

from typing import Any

import msgspec

from mooring.connection.matcher import Matcher
from mooring.connection.pointer import Pointer
from mooring.connection.template import MessageTemplate, Needs, TextTemplate

MAX_REMEMBERED_BYTES = 4 * 1024  # of one value, as JSON: a session id or a cursor, and not a document
MAX_RENEW_ANSWER_BYTES = 64 * 1024  # as a recipe


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of the opening. Without `expect` it is done once sent; `timeout_s` runs from there."""

    send: MessageTemplate | None
    expect: Matcher | None
    fail: Matcher | None
    timeout_s: float
    when: str | None  # skipped unless there is a value of this name, when its turn comes
    unless: str | None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent by itself to each message that matches. `stored`: once the journal holds that message."""

    when: Matcher
    send: MessageTemplate
    stored: bool
    hide: bool


class Remember(msgspec.Struct, frozen=True):
    """Keep the value at `pointer` of each message that has it and matches."""

    name: str
    pointer: Pointer
    when: Matcher | None


class Forget(msgspec.Struct, frozen=True):
    """Drop the value at each message that matches."""

    name: str
    when: Matcher


class RenewHttp(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request, and where its JSON answer has the values."""

    url: TextTemplate
    method: str
    headers: tuple[tuple[str, TextTemplate], ...]
    body: MessageTemplate | None
    values: tuple[tuple[str, Pointer], ...]


class Renew(msgspec.Struct, frozen=True, kw_only=True):
    """What gives fresh values before an attempt: `function`, or `http`."""

    function: str | None
    params: dict[str, Any] | list[Any]
    http: RenewHttp | None
    timeout_s: float
    reuse_for_s: float


class ReconnectWhen(msgspec.Struct, frozen=True, kw_only=True):
    """The peer asks for a new socket; `url_from`: where its message has another URL for it."""

    when: Matcher
    url_from: Pointer | None
    at_once: bool


class CatchUp(msgspec.Struct, frozen=True):
    """The function that fetches what was missed."""

    function: str
    params: dict[str, Any] | list[Any]
    timeout_s: float


class Uses(msgspec.Struct, kw_only=True):
    """What a recipe asks of its surroundings: each by its name, with the place that asks first."""

    names: dict[str, str] = msgspec.field(default_factory=dict)
    secrets: dict[str, str] = msgspec.field(default_factory=dict)
    functions: dict[str, str] = msgspec.field(default_factory=dict)
    json: list[str] = msgspec.field(default_factory=list)  # places that look into a message's JSON

    def add(self, needs: Needs, pointer: str) -> None:
        """Note what a template at `pointer` is filled from."""
        for name in sorted(needs.names | needs.fallbacks):
            self.names.setdefault(name, pointer)
        for name in sorted(needs.secrets):
            self.secrets.setdefault(name, pointer)
        if needs.pointers:
            self.json.append(pointer)


class Recipe(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """A recipe, ready to be obeyed. `given`: the names that `remember` and ``renew.http`` can give a value to."""

    opening: tuple[Step, ...] = ()
    answers: tuple[Answer, ...] = ()
    remember: tuple[Remember, ...] = ()
    forget: tuple[Forget, ...] = ()
    renew: Renew | None = None
    resumed_when: Matcher | None = None
    reconnect_when: tuple[ReconnectWhen, ...] = ()
    stop_when: tuple[Matcher, ...] = ()
    catch_up: CatchUp | None = None
    given: frozenset[str] = frozenset()
    uses: Uses = msgspec.field(default_factory=Uses)

    @property
    def opening_timeout_s(self) -> float:
        """How long the opening may take in all."""
        return sum(step.timeout_s for step in self.opening if step.expect is not None)

    @property
    def gives_any_name(self) -> bool:
        """A function may return whatever it likes, so no name can be called unknown."""
        return self.renew is not None and self.renew.function is not None


EMPTY = Recipe()
