"""What is filled in before it is sent: ``${…}`` in messages, URLs and headers. Pure, total: filling never raises.

``${name}`` a remembered or renewed value, ``${name|text}`` the text behind the bar where there is none, ``${/pointer}`` of the
message that matched, ``${nextId}``, ``${socket}``, ``${secret:NAME}``; ``$${`` is a literal ``${``. Each is either filled or
named as `Unfilled`: nothing goes out with a hole, or with an empty text in its place.

A message is filled structurally: a JSON string that is only ``${/id}`` becomes the value itself, whatever its type is, so no
value can break out of its string. Object keys are never filled.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, UnsetType

from mooring import json_text
from mooring.checks import NAME_PATTERN, check_headers, escape_pointer
from mooring.connection.pointer import MISSING, Pointer, is_scalar, parse_pointer
from mooring.errors import Invalid

MAX_HOLES = 64  # of one template: with MAX_FILLED_BYTES what bounds the work that a peer's message can cause
MAX_FILLED_BYTES = 1024 * 1024  # of the values in one filling: an echo of a whole large message is no answer

Kind = Literal["name", "pointer", "nextId", "socket", "secret"]
OF_MESSAGE: frozenset[Kind] = frozenset({"name", "nextId", "socket", "secret"})
"""What a message may hold that is no answer to another; an answer, and a step after a match: `OF_ANSWER`."""
OF_ANSWER: frozenset[Kind] = OF_MESSAGE | {"pointer"}
OF_DIAL: frozenset[Kind] = frozenset({"name", "socket", "secret"})
"""What a URL or a header may hold: an id that is never reset has no place there."""
OF_PLAIN_HEADER: frozenset[Kind] = frozenset({"secret"})
"""What a header holds where no recipe is given: all other text stays as it is written."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,62}\Z")
_RESERVED_NAMES = frozenset({"nextId", "socket"})
SECRET_NAME = re.compile(rf"{NAME_PATTERN}\Z")
PLACEHOLDER = re.compile(r"\$\$\{|\$\{[^}]*\}|\$\{")
"""A literal ``${``, one ``${…}``, or one that is not closed."""


class Unfilled(msgspec.Struct, frozen=True):
    """What could not be filled in, as it stands between the braces, and why. No value is ever in it."""

    what: str
    why: str = "missing"

    def __str__(self) -> str:
        return f"{self.why}: {self.what}"


class Values(msgspec.Struct, kw_only=True):
    """What templates are filled from. `message`: the JSON of the message that matched, or `MISSING`."""

    names: Mapping[str, Any] = msgspec.field(default_factory=dict)
    secrets: Mapping[str, str] = msgspec.field(default_factory=dict)
    message: Any = MISSING
    next_id: int = 0  # the same in all places of one template: Phoenix wants its reference twice
    socket: int = 0


class Hole(msgspec.Struct, frozen=True):
    """One ``${…}``. `text` is what stands between the braces, without the fallback."""

    kind: Kind
    text: str
    pointer: Pointer | None = None
    fallback: str | None = None


class Text(msgspec.Struct, frozen=True):
    """A text with holes, or without: literals and holes in turn."""

    parts: tuple[str | Hole, ...]

    @property
    def holes(self) -> Iterator[Hole]:
        """Its holes, from the left."""
        return (part for part in self.parts if isinstance(part, Hole))


class Needs(msgspec.Struct, frozen=True):
    """What a template is filled from. `fallbacks`: names that have a text of their own to stand in for them."""

    names: frozenset[str] = frozenset()
    fallbacks: frozenset[str] = frozenset()
    secrets: frozenset[str] = frozenset()
    pointers: bool = False
    next_id: bool = False


def is_name(text: str) -> bool:
    """Say whether a remembered or renewed value, or one that a preset leaves open, may be called so."""
    return text not in _RESERVED_NAMES and _NAME.match(text) is not None


def compile_text(text: str, pointer: str, wrong: list[Invalid], allowed: frozenset[Kind]) -> Text:
    """Return `text` parted into literals and holes; what is not valid is added to `wrong`."""
    parts: list[str | Hole] = []
    literal = ""
    at = 0
    plain = allowed is OF_PLAIN_HEADER
    for match in PLACEHOLDER.finditer(text):
        literal += text[at : match.start()]
        at = match.end()
        found = match[0]
        if found == "$${":
            literal += "${"
        elif plain and not text.startswith("${secret:", match.start()):
            literal += found
        else:
            hole = _hole(found, pointer, wrong, allowed)
            if hole is not None:
                if literal:
                    parts.append(literal)
                literal = ""
                parts.append(hole)
    if text[at:] or literal:
        parts.append(literal + text[at:])
    made = Text(tuple(parts))
    if sum(1 for _ in made.holes) > MAX_HOLES:
        wrong.append(Invalid(pointer, f"has more than {MAX_HOLES} ${{…}}"))
    return made


def _hole(found: str, pointer: str, wrong: list[Invalid], allowed: frozenset[Kind]) -> Hole | None:
    if not found.endswith("}"):
        wrong.append(Invalid(pointer, "a ${ is not closed; a literal one is written $${"))
        return None
    text = found[2:-1]
    hole: Hole | None = None
    if text == "nextId":
        hole = Hole("nextId", text)
    elif text == "socket":
        hole = Hole("socket", text)
    elif text.startswith("secret:"):
        hole = Hole("secret", text) if SECRET_NAME.match(text[7:]) else None
    elif text.startswith("/"):
        parsed = parse_pointer(text)
        hole = None if parsed is None else Hole("pointer", text, parsed)
    else:
        name, bar, fallback = text.partition("|")
        hole = Hole("name", name, fallback=fallback if bar else None) if is_name(name) else None
    if hole is None:
        detail = "is none of ${name} ${name|text} ${/pointer} ${nextId} ${socket} ${secret:NAME}"
        wrong.append(Invalid(pointer, f"{found[:80]} {detail}"))
    elif hole.kind not in allowed:
        wrong.append(Invalid(pointer, f"{found[:80]} cannot be filled in here"))
        return None
    return hole


class _Stop(Exception):
    """A hole that cannot be filled ends the filling; never leaves this file."""

    def __init__(self, unfilled: Unfilled) -> None:
        self.unfilled = unfilled


class _Filling:
    """One filling: looks values up, and counts their bytes."""

    def __init__(self, values: Values) -> None:
        self._values = values
        self._room = MAX_FILLED_BYTES

    def value(self, hole: Hole, *, in_text: bool) -> Any:
        """Return the value of `hole`. In a text, ``null`` counts as missing: no server means the word."""
        values = self._values
        match hole.kind:
            case "name":
                found = values.names.get(hole.text, MISSING)
            case "pointer":
                found = MISSING if hole.pointer is None else hole.pointer.get(values.message)
            case "secret":
                found = values.secrets.get(hole.text[7:], MISSING)
            case "nextId":
                found = values.next_id
            case "socket":
                found = values.socket
        if found is MISSING or (found is None and in_text):
            if hole.fallback is None:
                raise _Stop(Unfilled(hole.text))
            found = hole.fallback
        try:
            size = len(found) if isinstance(found, str) else len(json_text.encode(found))
        except (TypeError, ValueError, OverflowError, RecursionError):
            raise _Stop(Unfilled(hole.text, "not a JSON value")) from None
        self._room -= size
        if self._room < 0:
            raise _Stop(Unfilled(hole.text, "too large"))
        return found

    def text(self, template: Text, quoted: bool = False) -> str:
        """Return the text with its holes filled; `quoted`: percent-encoded, but for one with which it begins."""
        made = []
        for index, part in enumerate(template.parts):
            if isinstance(part, str):
                made.append(part)
                continue
            value = self.value(part, in_text=True)
            text = value if isinstance(value, str) else json_text.encode(value).decode()
            made.append(quote(text, safe="", errors="replace") if quoted and index else text)
        return "".join(made)

    def node(self, node: Any) -> Any:
        """Return a node of a message with its holes filled."""
        if isinstance(node, Text):
            if len(node.parts) == 1 and isinstance(node.parts[0], Hole):
                return self.value(node.parts[0], in_text=False)
            return self.text(node)
        if isinstance(node, dict):
            return {key: self.node(value) for key, value in node.items()}
        return [self.node(item) for item in node] if isinstance(node, list) else node


class MessageTemplate:
    """A message: text, or JSON that goes out as its text, or bytes as they are. `needs` says what it is filled from."""

    __slots__ = ("_node", "_static", "binary", "needs")

    def __init__(self, node: Any) -> None:
        self.binary = isinstance(node, bytes)
        holes = [hole for text in _texts(node) for hole in text.holes]
        self.needs = needs_of(holes)
        self._node = node
        self._static: bytes | None = node if isinstance(node, bytes) else None
        if not holes and not self.binary:
            filled = self.fill(Values())
            self._static = filled if isinstance(filled, bytes) else None

    def fill(self, values: Values) -> bytes | Unfilled:
        """Return the payload of the frame."""
        if self._static is not None:
            return self._static
        try:
            if isinstance(self._node, Text):
                return _Filling(values).text(self._node).encode()
            return json_text.encode(_Filling(values).node(self._node))
        except _Stop as stop:
            return stop.unfilled
        except (TypeError, ValueError, OverflowError, RecursionError):
            return Unfilled("a value", "not a JSON value")  # a lone surrogate of user code, found only now


class TextTemplate:
    """A URL or a header's value."""

    __slots__ = ("_quoted", "needs", "text")

    def __init__(self, text: Text, quoted: bool) -> None:
        self.text = text
        self._quoted = quoted
        self.needs = needs_of(text.holes)

    def fill(self, values: Values) -> str | Unfilled:
        """Return the text. Of a URL only the syntax of its values is safe: the whole is for `check_url` and egress to judge."""
        try:
            filled = _Filling(values).text(self.text, self._quoted)
        except _Stop as stop:
            return stop.unfilled
        if not self._quoted and (wrong := check_headers({"x": filled})):
            # The value may be a secret, or have come from a peer: only which one it was is said.
            return Unfilled(", ".join(hole.text for hole in self.text.holes), wrong[0].detail)
        return filled

    def sample(self) -> str | None:
        """Return the text with an ``x`` for each hole, for checks before there are values; None if it begins with one."""
        if isinstance(next(iter(self.text.parts), ""), Hole):
            return None
        return "".join(part if isinstance(part, str) else "x" for part in self.text.parts)


def compile_message(value: Any, pointer: str, wrong: list[Invalid], allowed: frozenset[Kind]) -> MessageTemplate:
    """Return the template of a message: text, or any other JSON value."""
    if isinstance(value, (bytes, bytearray)):
        value = None
        wrong.append(Invalid(pointer, "is not a JSON value; bytes belong into sendBase64"))
    made = MessageTemplate(
        compile_text(value, pointer, wrong, allowed)
        if isinstance(value, str)
        else _node(value, pointer, wrong, allowed)
    )
    if sum(1 for text in _texts(made._node) for _ in text.holes) > MAX_HOLES:
        wrong.append(Invalid(pointer, f"has more than {MAX_HOLES} ${{…}}"))
    return made


def compile_base64(text: str, pointer: str, wrong: list[Invalid]) -> MessageTemplate:
    """Return the template of a binary message. Nothing is filled into it: where would a text go in bytes?"""
    try:
        return MessageTemplate(base64.b64decode(text, validate=True))
    except ValueError:  # binascii.Error is one
        wrong.append(Invalid(pointer, "is not base64"))
        return MessageTemplate(b"")


def compile_outgoing(
    send: Any,
    send_base64: str | UnsetType,
    pointer: str,
    wrong: list[Invalid],
    allowed: frozenset[Kind] = OF_MESSAGE,
) -> MessageTemplate | None:
    """Return what ``send`` or ``sendBase64`` says, or None where neither is given."""
    if send is not UNSET and send_base64 is not UNSET:
        wrong.append(Invalid(f"{pointer}/sendBase64", "stands beside send: one of the two"))
    if send is not UNSET:
        return compile_message(send, f"{pointer}/send", wrong, allowed)
    return None if isinstance(send_base64, UnsetType) else compile_base64(send_base64, f"{pointer}/sendBase64", wrong)


def compile_url(text: str, pointer: str, wrong: list[Invalid]) -> TextTemplate:
    """Return the template of a URL: values are percent-encoded, but for one with which the text begins."""
    return TextTemplate(compile_text(text, pointer, wrong, OF_DIAL), quoted=True)


def compile_header(text: str, pointer: str, wrong: list[Invalid], *, recipe: bool) -> TextTemplate:
    """Return the template of a header's value; without a `recipe` only secrets are filled in."""
    return TextTemplate(compile_text(text, pointer, wrong, OF_DIAL if recipe else OF_PLAIN_HEADER), quoted=False)


def _node(value: Any, pointer: str, wrong: list[Invalid], allowed: frozenset[Kind]) -> Any:
    if isinstance(value, str):
        text = compile_text(value, pointer, wrong, allowed)
        return text if any(text.holes) else "".join(map(str, text.parts))
    if isinstance(value, dict):
        made = {}
        for key, item in value.items():
            place = f"{pointer}/{escape_pointer(str(key))[:100]}"
            if isinstance(key, str) and "${" in key:
                wrong.append(Invalid(place, "the name of a member is not filled in"))
            made[key] = _node(item, place, wrong, allowed)
        return made
    if isinstance(value, (list, tuple)):
        return [_node(item, f"{pointer}/{index}", wrong, allowed) for index, item in enumerate(value)]
    if not is_scalar(value):
        wrong.append(Invalid(pointer, "is not a JSON value"))  # of a handler's attribute: bytes belong into sendBase64
    return value


def _texts(node: Any) -> Iterator[Text]:
    if isinstance(node, Text):
        yield node
    elif isinstance(node, (dict, list)):
        for item in node.values() if isinstance(node, dict) else node:
            yield from _texts(item)


def needs_of(holes: Iterator[Hole] | list[Hole]) -> Needs:
    """Return what these holes are filled from."""
    found = list(holes)
    return Needs(
        frozenset(hole.text for hole in found if hole.kind == "name" and hole.fallback is None),
        frozenset(hole.text for hole in found if hole.kind == "name" and hole.fallback is not None),
        frozenset(hole.text[7:] for hole in found if hole.kind == "secret"),
        any(hole.kind == "pointer" for hole in found),
        any(hole.kind == "nextId" for hole in found),
    )
