"""4D's ``$2`` objects, the kinds of event, and how an event's JSON is put together.

A kind is one row of `KINDS`, beside its number in `Kind` and the Struct of its ``$2``: the documentation, the API's
description, and the words and colours of command line and console are made from that.

An event's JSON is encoded once, in the worker, without its ``id`` (only the journal knows that): the *body* is
everything after the id, and whoever shows the event writes ``{"id":"<epoch>-<position>",`` in front of it.
This module owns that shape. It does no I/O.
"""

from __future__ import annotations

import base64
import time
from enum import IntEnum
from typing import Any, Literal, NamedTuple

import msgspec

from mooring.errors import ErrorEntry
from mooring.kept_events import DisconnectEvent, ReconnectEvent, SilenceEvent, UnsentEvent


class Kind(IntEnum):
    """The kind of an event: its number is used on the link and in the journal, its name in JSON."""

    onOpen = 1
    onMessage = 2
    onError = 3
    onTerminate = 4
    callbackError = 5
    workerStarted = 6
    workerExited = 7
    gap = 8
    onDisconnect = 9
    onReconnect = 10
    onSilence = 11
    onUnsent = 12
    hookFailing = 13
    hookRecovered = 14
    hookPaused = 15
    hookSkipped = 16
    nodeLost = 17
    nodeReturned = 18


class OpenEvent(msgspec.Struct, frozen=True):
    """What ``on_open`` gets."""

    type: str = "open"


class MessageEvent(msgspec.Struct, frozen=True):
    """What ``on_message`` gets: `data` is ``str``, ``bytes`` or any JSON value, by the connection's data type.

    Under ``"auto"`` it is ``str`` for a text frame and ``bytes`` for a binary one. `filled`: it did not come over the socket:
    ``on_reconnect`` has fetched it.
    """

    data: Any
    type: str = "message"
    filled: bool = False


class ErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What ``on_error`` gets: `errors`, outermost first."""

    type: str = "error"
    errors: list[ErrorEntry]


class TerminateEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What ``on_terminate`` gets.

    `code` is the peer's; 1005 if its close frame had none, 1006 if there was none (RFC 6455 section 7.1.5).
    `was_clean`: a close frame was sent and received.
    """

    type: str = "terminate"
    code: int
    reason: str
    was_clean: bool


class CallbackErrorEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An exception inside a callback (4D: ``ON ERR CALL``)."""

    type: str = "callbackError"
    callback: str
    exception: str
    message: str
    traceback: str


class WorkerStartedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process is Running."""

    type: str = "workerStarted"
    pid: int
    incarnation: str
    restarts: int


class WorkerExitedEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A worker process has ended; `exit_code` and `signal` are None where nobody could know them."""

    type: str = "workerExited"
    pid: int
    exit_code: int | None
    signal: int | None
    reason: str
    restarting: bool


class GapEvent(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """Events between the cursor `from_` and `to` are no longer kept; `lost` is how many, None if unknowable."""

    type: str = "gap"
    from_: str | None
    to: str
    lost: int | None


class HookFailingEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A hook has begun to fail; `status`: of the last answer, None if there was none."""

    type: str = "hookFailing"
    hook: str
    reason: str
    status: int | None
    error: str
    failing_since: str


class HookRecoveredEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A hook that was failing does not any more."""

    type: str = "hookRecovered"
    hook: str
    down_ms: float


class HookPausedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A hook is paused, and says why."""

    type: str = "hookPaused"
    hook: str
    reason: str


class HookSkippedEvent(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """A hook has given up `count` events, the first of them `from_`, the last `through`."""

    type: str = "hookSkipped"
    hook: str
    from_: str
    through: str
    count: int
    status: int | None


class NodeLostEvent(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A node of the cluster is lost: who says so, and what it held."""

    type: str = "nodeLost"
    node: str
    life: str
    by: str
    silent_ms: float
    workers: int
    connections: int


class Unreplicated(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """What a lost node had committed and never published: how many events, and their local ids."""

    events: int
    from_: str
    to: str


class NodeReturnedEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A node that was lost is back; `life`: the one that was lost."""

    type: str = "nodeReturned"
    node: str
    life: str
    unreplicated: Unreplicated | None


class KindInfo(NamedTuple):
    """What is to be known of one kind of event.

    Attributes:
        event: The Struct of its ``$2``.
        meaning: When it comes, for the documentation.
        tone: What it is for whoever watches.
        words: Its ``$2`` in words: ``{name}`` is a field, ``{name|text}`` stands where it is missing, and
            ``{name?yes:no}`` is one of two texts; ``{name@}`` is its time of day, ``{name~}`` its milliseconds as a duration,
            ``{name+thing}`` so many things.
        callback: The handler's method that gets it, if one does.
        in_json: Fields that only the JSON has, and what they hold.
        sometimes: Fields that are in the JSON only where they say more than their default.
    """

    event: type[msgspec.Struct]
    meaning: str
    tone: Literal["good", "plain", "warn", "bad"]
    words: str
    callback: str = ""
    in_json: dict[str, str] = {}  # noqa: RUF012  # nobody writes to it
    sometimes: tuple[str, ...] = ()


KINDS: dict[Kind, KindInfo] = {
    Kind.onOpen: KindInfo(OpenEvent, "the handshake has succeeded", "good", "", "on_open"),
    Kind.onMessage: KindInfo(
        MessageEvent,
        "a message has come",
        "plain",
        "{encoding?blob :}{data}",
        "on_message",
        {"encoding": "`base64`, where `data` is bytes: under `blob`, and of binary frames under `auto`"},
        ("filled",),
    ),
    Kind.onError: KindInfo(
        ErrorEvent, "something failed (outermost first); `onTerminate` follows", "bad", "{errors}", "on_error"
    ),
    Kind.onTerminate: KindInfo(
        TerminateEvent,
        "the end, exactly once and last",
        "warn",
        "{code} {wasClean?clean:not clean} {reason}",
        "on_terminate",
    ),
    Kind.callbackError: KindInfo(
        CallbackErrorEvent,
        "a callback or an unawaited call has raised",
        "bad",
        "{callback}: {exception}: {message}",
    ),
    Kind.workerStarted: KindInfo(WorkerStartedEvent, "a worker is Running", "good", "pid {pid}"),
    Kind.workerExited: KindInfo(
        WorkerExitedEvent, "a worker's process has ended", "bad", "pid {pid}: {reason}{restarting?; restarting:}"
    ),
    Kind.gap: KindInfo(
        GapEvent,
        "events between the cursor and here are no longer kept",
        "warn",
        "events are missing: {lost|an unknown number}",
    ),
    Kind.onDisconnect: KindInfo(
        DisconnectEvent,
        "the socket of a kept connection has ended, and another one will follow",
        "warn",
        "socket {socket}, {cause}: {code}{reason? :}{reason}; next attempt: {nextAttemptAt@|when its worker is back}",
        "on_disconnect",
    ),
    Kind.onReconnect: KindInfo(
        ReconnectEvent,
        "a kept connection has a new socket; messages may be missing from `gapFrom` to here",
        "good",
        "socket {socket}{restarted? in a new process:} after {downMs~}, at attempt {attempts}; "
        "{resumed?nothing is missing:messages may be missing} since {gapFrom@|its begin}",
        "on_reconnect",
    ),
    Kind.onSilence: KindInfo(
        SilenceEvent,
        "no message has come for `dataTimeout` (comes with that option)",
        "warn",
        "since {since@}",
        "on_silence",
    ),
    Kind.onUnsent: KindInfo(
        UnsentEvent,
        "messages that waited to be sent were given up (comes with `whenDown`)",
        "bad",
        "{count+message}, {bytes+byte}: {reason}",
        "on_unsent",
    ),
    Kind.hookFailing: KindInfo(HookFailingEvent, "a hook has begun to fail", "bad", "{hook}: {reason} {error}"),
    Kind.hookRecovered: KindInfo(HookRecoveredEvent, "a hook works again", "good", "{hook}: after {downMs~}"),
    Kind.hookPaused: KindInfo(HookPausedEvent, "a hook is paused", "warn", "{hook}: {reason}"),
    Kind.hookSkipped: KindInfo(
        HookSkippedEvent,
        "a hook has given up events",
        "bad",
        "{hook}: {count+event}, {from} to {through}",
    ),
    Kind.nodeLost: KindInfo(
        NodeLostEvent,
        "a node of the cluster is lost (comes with `[cluster]`)",
        "bad",
        "{node}: {connections+connection}",
    ),
    Kind.nodeReturned: KindInfo(
        NodeReturnedEvent, "a node that was lost is back (comes with `[cluster]`)", "good", "{node}"
    ),
}
"""Every kind of event."""

_encoder = msgspec.json.Encoder()
_second: tuple[int, str] = (
    0,
    "1970-01-01T00:00:00.",
)  # one value: threads that write it never mix a second and its text
_second_bytes: tuple[int, bytes] = (0, b"1970-01-01T00:00:00.")  # likewise


def rfc3339(time_us: int) -> str:
    """Return `time_us` (microseconds since 1970, UTC) as RFC 3339 with microseconds."""
    global _second
    second, microsecond = divmod(time_us, 1_000_000)
    known, text = _second
    if second != known:
        text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        _second = (second, text)
    return f"{text}{microsecond:06d}Z"


def now_us() -> int:
    """Return the time of day in microseconds since 1970."""
    return time.time_ns() // 1000


def body_prefix(kind: Kind, connection: int, worker: str) -> bytes:
    """Return the part of a body that is the same for all events of this kind of one connection, up to ``seq``."""
    return b'"kind":"%b","connection":%d,"worker":%b,"seq":' % (
        kind.name.encode(),
        connection,
        _encoder.encode(worker),
    )


def connection_body(prefix: bytes, seq: int, time_us: int, event: bytes) -> bytes:
    """Return the body of a connection's event; `event` is the JSON of the ``$2`` object."""
    return b'%b%d,"time":"%b","event":%b}' % (prefix, seq, rfc3339(time_us).encode(), event)


def text_body(prefix: bytes, seq: int, time_us: int, text: str) -> bytes:
    """Return the body of an ``onMessage`` of text: what `connection_body` makes of `text_event`, at half the cost."""
    global _second_bytes
    second, microsecond = divmod(time_us, 1_000_000)
    known, begin = _second_bytes
    if second != known:
        begin = rfc3339(time_us)[: len(begin)].encode()
        _second_bytes = (second, begin)
    return b'%b%d,"time":"%b%06dZ","event":{"type":"message","data":%b}}' % (
        prefix, seq, begin, microsecond, _encoder.encode(text),
    )  # fmt: skip


def worker_body(kind: Kind, worker: str, time_us: int, event: msgspec.Struct) -> bytes:
    """Return the body of a worker's event: it has no ``connection`` and no ``seq``."""
    return b'"kind":"%b","worker":%b,"time":"%b","event":%b}' % (
        kind.name.encode(),
        _encoder.encode(worker),
        rfc3339(time_us).encode(),
        _encoder.encode(event),
    )


def gap_body(time_us: int, event: GapEvent) -> bytes:
    """Return the body of a ``gap``: it belongs to a stream, not to a connection or worker."""
    return service_body(Kind.gap, time_us, event)


def service_body(kind: Kind, time_us: int, event: msgspec.Struct) -> bytes:
    """Return the body of an event of the service itself: it has no ``connection``, ``worker`` or ``seq``."""
    return b'"kind":"%b","time":"%b","event":%b}' % (
        kind.name.encode(), rfc3339(time_us).encode(), _encoder.encode(event),
    )  # fmt: skip


def text_event(text: str) -> bytes:
    """Return the ``$2`` JSON of a text message."""
    return b'{"type":"message","data":%b}' % _encoder.encode(text)


def blob_event(data: bytes) -> bytes:
    """Return the ``$2`` JSON of a blob message: base64 text and its ``encoding``."""
    return b'{"type":"message","data":"%b","encoding":"base64"}' % base64.b64encode(data)


def object_event(json: bytes) -> bytes:
    """Return the ``$2`` JSON of an object message: the JSON as it came, on one line.

    JSON strings cannot hold raw line breaks, so CR and LF stand only between tokens, where a space means the same.
    """
    if b"\n" in json or b"\r" in json:
        json = json.replace(b"\n", b" ").replace(b"\r", b" ")
    return b'{"type":"message","data":%b}' % json


def encode_event(event: msgspec.Struct) -> bytes:
    """Return the ``$2`` JSON of any other event Struct."""
    return _encoder.encode(event)
