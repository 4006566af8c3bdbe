"""What requests look like: bodies, queries, content types. Pure: bytes and text in, Structs or `Problem` out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

import msgspec
from multidict import MultiMapping

from mooring import json_text
from mooring.checks import check_worker_name
from mooring.errors import Invalid
from mooring_api.rest.known_keys import nearest
from mooring_api.rest.problems import Problem
from mooring_service.journal.batch import KIND_BY_NAME
from mooring_service.records import ConnectionRecord, WorkerRecord

MAX_DEPTH = 100  # of a body that is a request; messages may be deeper (contract, section 4)
MAX_PAGE = 1_000
MAX_WAIT_S = 300.0

Body = TypeVar("Body")
_PATH = re.compile(r" - at `(?P<path>\$[^`]*)`\Z")
_INTEGER = re.compile(r"[0-9]{1,18}\Z")


class CallRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of ``POST /v1/workers/{name}/calls``: `params` by keyword (object) or position (list)."""

    function: str
    params: dict[str, Any] | list[Any] = msgspec.field(default_factory=dict)


class StartRequest(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The body of ``PUT /v1/workers/{name}``: in a cluster the node that is to have it."""

    node: str | None = None


class ConnectionPage(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/connections``; `next` is the ``after`` of the next page, None at the end."""

    connections: list[ConnectionRecord]
    next: int | None


class WorkerList(msgspec.Struct, frozen=True):
    """The answer of ``GET /v1/workers``."""

    workers: list[WorkerRecord]


class _DuplicateKey(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _DuplicateKey(key[:100])
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_read_json = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant).decode


def parse_json(body: bytes) -> Any:
    """Return what a request's JSON body holds.

    Raises:
        Problem: 400, saying where, for whatever JSON (RFC 8259) does not allow, and for keys that stand twice.
    """
    if body.startswith(b"\xef\xbb\xbf"):
        raise Problem("bad-request", "the body begins with a byte order mark; JSON is UTF-8 without one")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Problem("bad-request", f"the body is not UTF-8 (at byte {exc.start})") from None
    if not text.strip():
        raise Problem("bad-request", "the body is empty; a JSON object is expected")
    try:
        value = _read_json(text)
    except _DuplicateKey as exc:
        key = str(exc).encode("utf-8", "replace").decode()
        raise Problem("bad-request", f"the key {key!r} stands twice in one object") from None
    except json.JSONDecodeError as exc:
        raise Problem("bad-request", f"not JSON: {exc.msg} (line {exc.lineno}, column {exc.colno})") from None
    except RecursionError:
        raise Problem("bad-request", f"nested more than {MAX_DEPTH} deep") from None
    except ValueError as exc:
        raise Problem("bad-request", f"not JSON: {exc}") from None
    if _depth(value) > MAX_DEPTH:
        raise Problem("bad-request", f"nested more than {MAX_DEPTH} deep")
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise Problem("bad-request", "a string holds a lone surrogate, which is not Unicode text") from None
    return value


def _depth(value: Any) -> int:
    deepest = 0
    pending = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, (dict, list)):
            deepest = max(deepest, depth)
            children = item.values() if isinstance(item, dict) else item
            pending.extend((child, depth + 1) for child in children if isinstance(child, (dict, list)))
    return deepest


def decode(body: bytes, kind: type[Body]) -> Body:
    """Return a request's body as `kind`.

    Raises:
        Problem: 400 if it is not JSON, 422 with a pointer if it is and is not valid.
    """
    return convert(parse_json(body), kind)


def convert(value: Any, kind: type[Body]) -> Body:
    """Return what a request's JSON holds as `kind`.

    Raises:
        Problem: 422 with a pointer, if it is not valid.
    """
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as exc:
        detail, pointer = _place(str(exc), kind)
        raise Problem("invalid", f"{pointer or 'the body'}: {detail}", errors=[Invalid(pointer, detail)]) from None


def _place(text: str, kind: Any) -> tuple[str, str]:
    """Split msgspec's text about a `kind` into what is wrong, and a JSON pointer to it."""
    match = _PATH.search(text)
    pointer = ""
    if match is not None:
        text = text[: match.start()]
        for name, index in re.findall(r"\.([^.\[]+)|\[([^\]]*)\]", match["path"][1:]):
            pointer += "/" + (name or index)
    unknown = re.match(r"Object contains unknown field `(.*)`\Z", text)
    if unknown is not None:
        meant = nearest(kind, pointer, unknown[1])
        hint = f"; did you mean {meant!r}?" if meant else ""
        return f"unknown key {unknown[1]!r}{hint}", f"{pointer}/{unknown[1]}"
    missing = re.match(r"Object missing required field `(.*)`\Z", text)
    if missing is not None:
        return f"the key {missing[1]!r} is required", pointer
    return text, pointer


def check_text(body: bytes) -> None:
    """A text message must be UTF-8.

    Raises:
        Problem: 400.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Problem("bad-request", f"the body is not UTF-8 (at byte {exc.start}), as text/plain must be") from None


def check_json(body: bytes, what: str = "the body", **extra: Any) -> None:
    """An object message must be JSON; it is sent as it came.

    Raises:
        Problem: 400.
    """
    try:
        json_text.check(body)
    except json_text.NotJson as exc:
        raise Problem("bad-request", f"{what} is not JSON: {exc}", **extra) from None


@lru_cache(maxsize=256)
def media_type(content_type: str | None) -> str | None:
    """Return the media type of a Content-Type header, in lower case.

    Raises:
        Problem: 415 if it asks for another character set than UTF-8.
    """
    if content_type is None:
        return None
    kind, *params = (part.strip() for part in content_type.split(";"))
    for param in params:
        name, _, value = param.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8", "us-ascii"):
            raise Problem("unsupported-media-type", "only UTF-8 is supported")
    return kind.lower()


def wants(accept: str | None, offered: tuple[str, ...]) -> str:
    """Return the offered media type that an Accept header likes best; the first where it says nothing.

    Raises:
        Problem: 406 if it likes none.
    """
    if not accept:
        return offered[0]
    best, best_quality = None, 0.0
    ranges: list[tuple[str, float]] = []
    for part in accept.split(","):
        kind, *params = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for param in params:
            if param.startswith("q="):
                try:
                    quality = float(param[2:])
                except ValueError:
                    quality = 0.0
        ranges.append((kind, quality))
    for offer in offered:
        exact = [quality for kind, quality in ranges if kind == offer]
        group = [quality for kind, quality in ranges if kind in ("*/*", offer.partition("/")[0] + "/*")]
        quality = exact[0] if exact else max(group, default=0.0)
        if quality > best_quality:
            best, best_quality = offer, quality
    if best is None:
        raise Problem("not-acceptable", f"this can be served as {', '.join(offered)}")
    return best


def query_int(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Return an integer of the query.

    Raises:
        Problem: 422 if it is none, or out of range.
    """
    text = query.get(name)
    if text is None:
        return default
    if not _INTEGER.match(text) or not text.isascii() or not low <= int(text) <= high:
        raise invalid(f"query:{name}", f"must be {low} to {high}")
    return int(text)


def query_wait(query: Mapping[str, str]) -> float:
    """Return ``wait=SECONDS``.

    Raises:
        Problem: 422 if it is no number, or out of range.
    """
    text = query.get("wait")
    if text is None:
        return 0.0
    try:
        wait_s = float(text)
    except ValueError:
        wait_s = -1.0
    if not 0 <= wait_s <= MAX_WAIT_S:
        raise invalid("query:wait", f"must be 0 to {MAX_WAIT_S:g} seconds")
    return wait_s


def known_only(query: MultiMapping[str], *names: str, repeatable: tuple[str, ...] = ()) -> None:
    """A query holds nothing but `names`, each once, and `repeatable` ones.

    Raises:
        Problem: 422 naming the first that is wrong.
    """
    known = (*names, *repeatable)
    for name in query:
        if name not in known:
            raise invalid(f"query:{name}", f"unknown; known: {', '.join(known)}" if known else "this takes no query")
        if name not in repeatable and len(query.getall(name)) > 1:
            raise invalid(f"query:{name}", "stands twice")


def check_escapes(raw_query: str, opaque: tuple[str, ...]) -> None:
    """What is percent-encoded in a query is UTF-8; else it would be taken as another text than was sent.

    (In a path nothing but ids and names is taken, which are ASCII.)

    Args:
        opaque: Names whose values have a meaning whatever they hold.

    Raises:
        Problem: 400.
    """
    if "%" not in raw_query:
        return
    for pair in raw_query.split("&"):
        name, _, value = pair.partition("=")
        try:
            unquote_to_bytes(value).decode()
        except UnicodeError:
            if name not in opaque:
                raise Problem("bad-request", f"the query's {name[:100]!r} is not UTF-8 where it is decoded") from None


def worker_names(values: list[str]) -> frozenset[str]:
    """Return the workers that ``worker=`` names, repeated or comma-separated.

    Raises:
        Problem: 422 if one can be no worker's name.
    """
    found = frozenset(name for value in values for name in value.split(","))
    for name in found:
        if check_worker_name(name):
            raise invalid("query:worker", f"{name!r} is not a worker's name")
    return found


def kinds_of(values: list[str]) -> frozenset[int]:
    """Return the kinds that ``kind=`` names, repeated or comma-separated.

    Raises:
        Problem: 422 if one is unknown.
    """
    found = set()
    for value in values:
        for name in value.split(","):
            if name not in KIND_BY_NAME:
                raise invalid("query:kind", f"unknown kind; known: {', '.join(KIND_BY_NAME)}")
            found.add(KIND_BY_NAME[name])
    return frozenset(found)


def connection_id(text: str) -> int:
    """Return the id in a path.

    Raises:
        Problem: 404 if it cannot be one: such a connection never existed.
    """
    if not _INTEGER.match(text) or not text.isascii() or int(text) < 1:
        raise Problem("connection-not-found", "a connection's id is a positive integer")
    return int(text)


def invalid(pointer: str, detail: str) -> Problem:
    """Return a 422 that points at one place."""
    return Problem("invalid", f"{pointer.removeprefix('query:')}: {detail}", errors=[Invalid(pointer, detail)])
