"""Which frame is meant: matchers, made once and asked for each frame. Pure, total: no frame makes one raise.

``"text"``: the whole frame. ``{"startsWith": …}``, ``{"contains": …}``: of its text. ``{"base64": …}``: its first bytes.
``{"/pointer": value, …}``: all of these hold in its JSON, where a value is a scalar, ``{"exists": true | false}`` or
``{"in": [scalars]}``. A list: any of these. No regular expressions and no arithmetic, so each costs what the frame is long.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from mooring import json_text
from mooring.checks import escape_pointer
from mooring.connection.pointer import MISSING, Pointer, is_scalar, parse_pointer, scalar_key
from mooring.errors import Invalid
from mooring.kept_options import MatcherRequest

MAX_TERMS = 32  # conditions of one matcher: more is a program, and belongs into a handler

_OPERATORS = ("startsWith", "contains", "base64")


class Frame:
    """A received message as matchers see it: its JSON is parsed when the first of them asks, and never again.

    Args:
        payload: The message, whole.
        is_text: The connection's data type shows it as text or object. Text and pointers match only such a frame, so that
            a binary message that happens to spell a heartbeat is not taken for one.
    """

    __slots__ = ("_json", "is_text", "parsed", "payload")

    def __init__(self, payload: bytes, is_text: bool) -> None:
        self.payload = payload
        self.is_text = is_text
        self.parsed = False  # whether `json` was ever asked: `object` conversion may then take it from here
        self._json: Any = MISSING

    @property
    def json(self) -> Any:
        """The JSON value, or `MISSING` where the frame is none."""
        if not self.parsed:
            self.parsed = True
            if self.is_text:
                try:
                    self._json = json_text.decode(self.payload)
                except json_text.NotJson:
                    pass  # it stays MISSING
        return self._json


class _PointerTerm(msgspec.Struct, frozen=True):
    """One pointer of an object: its value must be one of `among`, or exist or not as `exists` says."""

    pointer: Pointer
    among: frozenset[tuple[bool, Any]] | None
    exists: bool = True

    def holds(self, value: Any) -> bool:
        found = self.pointer.get(value)
        if self.among is None:
            return (found is not MISSING) is self.exists
        return is_scalar(found) and scalar_key(found) in self.among


class Matcher:
    """The compiled form. `needs_json`: some frame may have to be parsed for it. `terms`: how many conditions it has."""

    __slots__ = ("_contains", "_exact", "_objects", "_prefixes", "_starts", "needs_json", "terms")

    def __init__(self) -> None:
        self._exact: tuple[bytes, ...] = ()
        self._starts: tuple[bytes, ...] = ()
        self._contains: tuple[bytes, ...] = ()
        self._prefixes: tuple[bytes, ...] = ()
        self._objects: tuple[tuple[_PointerTerm, ...], ...] = ()
        self.needs_json = False
        self.terms = 0

    def matches(self, frame: Frame) -> bool:
        """Say whether `frame` is meant. Its bytes are compared first: most frames need not be parsed at all."""
        payload = frame.payload
        if self._prefixes and payload.startswith(self._prefixes):
            return True
        if not frame.is_text:
            return False
        # UTF-8 is self-synchronizing: comparing bytes is comparing text.
        if payload in self._exact or (self._starts and payload.startswith(self._starts)):
            return True
        if any(part in payload for part in self._contains):
            return True
        if not self._objects:
            return False
        value = frame.json
        return value is not MISSING and any(all(term.holds(value) for term in terms) for terms in self._objects)


class Glance:
    """All matchers of a connection at one glance: whether any of them could mean a message, by its bytes alone.

    Most messages mean nothing to any of them, and cost no more than this.
    """

    __slots__ = ("_contains", "_exact", "_starts")

    def __init__(self, matchers: Iterable[Matcher]) -> None:
        found = list(matchers)
        self._exact = frozenset(text for one in found for text in one._exact)
        self._starts = tuple(text for one in found for text in (*one._starts, *one._prefixes))
        self._contains = tuple(text for one in found for text in one._contains)

    def sees(self, items: list[tuple[int, bytes]]) -> bool:
        """Say whether one of `items` could be meant."""
        exact, starts, contains = self._exact, self._starts, self._contains
        for _, payload in items:
            if payload in exact or (starts and payload.startswith(starts)):
                return True
            for part in contains:
                if part in payload:
                    return True
        return False


NEVER: Final = Matcher()
"""Matches no frame; stands where a matcher was not valid."""


def compile_matcher(request: MatcherRequest, pointer: str, wrong: list[Invalid]) -> Matcher:
    """Return the matcher that `request` describes; what is not valid is added to `wrong`, with its place under `pointer`."""
    builder = _Builder(wrong)
    if isinstance(request, list):
        if not request:
            builder.bad(pointer, "an empty list matches nothing")
        for index, item in enumerate(request):
            builder.add(item, f"{pointer}/{index}")
    else:
        builder.add(request, pointer)
    if builder.terms > MAX_TERMS:
        builder.bad(pointer, f"has {builder.terms} conditions; at most {MAX_TERMS} are allowed")
    return builder.matcher()


class _Builder:
    """Gathers the terms of one matcher."""

    def __init__(self, wrong: list[Invalid]) -> None:
        self._wrong = wrong
        self._texts: dict[str, list[bytes]] = {name: [] for name in ("exact", *_OPERATORS)}
        self._objects: list[tuple[_PointerTerm, ...]] = []
        self.terms = 0

    def bad(self, pointer: str, detail: str) -> None:
        self._wrong.append(Invalid(pointer, detail))

    def matcher(self) -> Matcher:
        made = Matcher()
        made._exact = tuple(self._texts["exact"])
        made._starts = tuple(self._texts["startsWith"])
        made._contains = tuple(self._texts["contains"])
        made._prefixes = tuple(self._texts["base64"])
        made._objects = tuple(self._objects)
        made.needs_json = bool(self._objects)
        made.terms = self.terms
        return made

    def add(self, item: Any, pointer: str) -> None:
        """Add one text or object."""
        if isinstance(item, str):
            self._text("exact", item, pointer)
        elif not isinstance(item, dict):
            self.bad(pointer, "must be text, or an object of one operator or of JSON pointers")
        elif not item:
            self.bad(pointer, "an empty object matches nothing")
        elif len(item) == 1 and (name := next(iter(item))) in _OPERATORS:
            if isinstance(item[name], str):
                self._text(name, item[name], f"{pointer}/{name}")
            else:
                self.bad(f"{pointer}/{name}", "must be text")
        else:
            self._object(item, pointer)

    def _text(self, operator: str, text: str, pointer: str) -> None:
        self.terms += 1
        if operator != "exact" and not text:
            self.bad(pointer, "an empty text matches everything")
            return
        try:
            data = base64.b64decode(text, validate=True) if operator == "base64" else text.encode()
        except (binascii.Error, ValueError):
            # Also what is not ASCII; of the others, a lone surrogate alone cannot be encoded.
            self.bad(pointer, "is not base64" if operator == "base64" else "is not valid Unicode (a lone surrogate)")
            return
        self._texts[operator].append(data)

    def _object(self, item: dict[str, Any], pointer: str) -> None:
        found = []
        for text, condition in item.items():
            self.terms += 1
            place = f"{pointer}/{escape_pointer(str(text))[:100]}"
            parsed = parse_pointer(text) if isinstance(text, str) else None
            if text in _OPERATORS:
                self.bad(place, "an operator stands alone in its object")
            elif parsed is None:
                self.bad(place, f"is neither a JSON pointer (RFC 6901) nor one of {', '.join(_OPERATORS)}")
            elif (term := self._term(parsed, condition, place)) is not None:
                found.append(term)
        if found:
            self._objects.append(tuple(found))

    def _term(self, pointer: Pointer, condition: Any, place: str) -> _PointerTerm | None:
        if is_scalar(condition):
            return _PointerTerm(pointer, frozenset({scalar_key(condition)}))
        if isinstance(condition, dict) and len(condition) == 1:
            exists, among = condition.get("exists"), condition.get("in")
            if isinstance(exists, bool):
                return _PointerTerm(pointer, None, exists)
            if isinstance(among, list) and among and all(map(is_scalar, among)):
                return _PointerTerm(pointer, frozenset(map(scalar_key, among)))
        self.bad(place, 'must be a scalar, {"exists": true or false}, or {"in": [scalars]}')
        return None
