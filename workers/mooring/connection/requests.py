"""Requests over a connection, and which message is the reply to which. Pure: time comes in as monotonic seconds.

A reply is known by an id that we put into the request. What is pending belongs to the present socket: when that ends, all of it
is answered as lost (it may have been done), and a reply that comes later, or over the next socket, is an ordinary message.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Hashable
from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET

from mooring.bounds import MAX_PENDING_REQUESTS
from mooring.connection.matcher import Frame, Matcher, compile_matcher
from mooring.connection.pointer import MISSING, Pointer, is_scalar, parse_pointer, put, scalar_key
from mooring.errors import Invalid
from mooring.kept_options import RequestsRequest

IDS_PER_SOCKET = 65_536  # 31 bits, which the strictest peers allow, last for 32,767 sockets whose worker died

PRESETS: dict[str, RequestsRequest] = {
    "jsonrpc": RequestsRequest(id="/id", reply="/id", when={"/method": {"exists": False}}, error="/error"),
    "home-assistant": RequestsRequest(
        id="/id", reply="/id", when={"/type": {"in": ["result", "pong"]}}, error="/error"
    ),
    "cdp": RequestsRequest(id="/id", reply="/id", when={"/method": {"exists": False}}, error="/error"),
    "ocpp": RequestsRequest(
        id="/1", reply="/1", when={"/0": {"in": [3, 4]}}, error={"/0": 4}, id_type="string", one_at_a_time=True
    ),
    "phoenix": RequestsRequest(  # its references are texts
        id="/1", reply="/1", when={"/3": "phx_reply"}, error={"/4/status": "error"}, id_type="string"
    ),
}
"""By name. ``when`` keeps a request of the peer, which has the same ids, from being taken for a reply."""


class Protocol(msgspec.Struct, frozen=True, kw_only=True):
    """The compiled ``requests``. `error`: a pointer to what is there, and not ``null``, in a failure; or what one looks like."""

    id: Pointer
    reply: Pointer
    when: Matcher | None = None
    error: Pointer | Matcher | None = None
    text_ids: bool = False
    hide: bool = False
    one_at_a_time: bool = False

    def failed(self, frame: Frame) -> bool:
        """Say whether this reply is an error of the peer."""
        if isinstance(self.error, Pointer):
            return self.error.get(frame.json) not in (MISSING, None)
        return self.error is not None and self.error.matches(frame)


def compile_requests(request: str | RequestsRequest, pointer: str, wrong: list[Invalid]) -> Protocol | None:
    """Return what `request`, or the preset of that name, describes; what is not valid is added to `wrong`."""
    if isinstance(request, str):
        preset = PRESETS.get(request)
        if preset is None:
            wrong.append(Invalid(pointer, f"no such preset; there are {', '.join(sorted(PRESETS))}"))
            return None
        request = preset
    places = {name: parse_pointer(getattr(request, name)) for name in ("id", "reply")}
    error: Pointer | Matcher | None = None
    if isinstance(request.error, str):
        error = places["error"] = parse_pointer(request.error)
    elif request.error is not UNSET:
        error = compile_matcher(request.error, f"{pointer}/error", wrong)
    when = None if request.when is UNSET else compile_matcher(request.when, f"{pointer}/when", wrong)
    for name, place in places.items():
        if place is None:
            wrong.append(Invalid(f"{pointer}/{name}", "is not a JSON pointer (RFC 6901)"))
        elif not place.tokens:
            wrong.append(Invalid(f"{pointer}/{name}", "must lead to a member, not to the whole message"))
    if places["id"] is None or places["reply"] is None:
        return None
    return Protocol(
        id=places["id"],
        reply=places["reply"],
        when=when,
        error=error,
        text_ids=request.id_type == "string",
        hide=request.hide,
        one_at_a_time=request.one_at_a_time,
    )


class Ids:
    """``nextId`` of one connection: counts up over all its sockets. `socket`: of the last one, where a worker has died."""

    __slots__ = ("_next",)

    def __init__(self, socket: int = 0) -> None:
        self._next = max(1, socket % (2**31 // IDS_PER_SOCKET) * IDS_PER_SOCKET)

    def take(self) -> int:
        """Return the next one."""
        self._next += 1
        return self._next - 1


class Refused(Enum):
    """Why a request was not taken; nothing was sent."""

    LIMIT = "too many requests are pending"
    ID_IN_USE = "a request of this id is pending"
    NO_PLACE = "the message has no place for an id"


class Asked(msgspec.Struct, frozen=True):
    """A request that was taken. `payload`: write it now; None: it waits for its turn (`Requests.turn`)."""

    id: int | float | str
    payload: bytes | None


class Reply(msgspec.Struct, frozen=True):
    """A message is the reply to `request`."""

    request: Hashable
    failed: bool


class _Pending(msgspec.Struct):
    request: Hashable
    key: tuple[bool, Any]
    id: int | float | str
    payload: bytes | None  # until it is written
    deadline: float


class Requests:
    """The pending requests of one connection. Whoever waits for a reply is known by a `request` of its own choice."""

    def __init__(self, protocol: Protocol, ids: Ids, max_pending: int = MAX_PENDING_REQUESTS) -> None:
        self.protocol = protocol
        self._ids = ids
        self.max_pending = max_pending
        self._by_id: dict[tuple[bool, Any], _Pending] = {}
        self._by_request: dict[Hashable, _Pending] = {}
        self._turn: OrderedDict[Hashable, _Pending] = OrderedDict()  # of one_at_a_time: not written yet
        self._deadlines: list[tuple[float, int, _Pending]] = []
        self._serial = 0
        self.late_replies = 0

    @property
    def asked(self) -> bool:
        """Whether anything was ever asked: before, no message need be parsed."""
        return self._serial > 0

    @property
    def pending(self) -> int:
        """How many wait for a reply, or for their turn."""
        return len(self._by_request)

    @property
    def next_deadline(self) -> float:
        """When `expire` is due; infinity: nothing is pending."""
        while self._deadlines and self._by_request.get(self._deadlines[0][2].request) is not self._deadlines[0][2]:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else math.inf

    def ask(self, request: Hashable, body: bytes, now: float, timeout_s: float) -> Asked | Refused:
        """Take a request: the JSON text `body`, with an id of ours unless it has one."""
        assert request not in self._by_request, "whoever waits waits once"
        if len(self._by_request) >= self.max_pending:
            return Refused.LIMIT
        own = self.protocol.id.get(Frame(body, True).json)
        if own is MISSING or own is None or own == "":
            id_, payload = self._fresh(body)
        else:
            id_, payload = own, body
        if payload is None or isinstance(id_, bool) or not is_scalar(id_):
            return Refused.NO_PLACE
        key = scalar_key(id_)
        if key in self._by_id:
            return Refused.ID_IN_USE
        waits = self.protocol.one_at_a_time and bool(self._by_request)
        made = _Pending(request, key, id_, payload if waits else None, now + timeout_s)
        self._by_id[key] = self._by_request[request] = made
        if waits:
            self._turn[request] = made
        self._serial += 1
        heapq.heappush(self._deadlines, (made.deadline, self._serial, made))
        if len(self._deadlines) > 64 + 2 * len(self._by_request):  # answered ones would stay until their time
            self._deadlines = [one for one in self._deadlines if self._by_request.get(one[2].request) is one[2]]
            heapq.heapify(self._deadlines)
        return Asked(id_, None if waits else payload)

    def turn(self) -> tuple[Hashable, bytes] | None:
        """Return the next request and what to write, where one waits and none is unanswered. Ask after each that has ended."""
        if not self._turn or len(self._turn) < len(self._by_request):
            return None
        request, made = self._turn.popitem(last=False)
        payload, made.payload = made.payload, None
        assert payload is not None, "it was never written"
        return request, payload

    def reply(self, frame: Frame) -> Reply | None:
        """Return whose reply `frame` is, or None. It is asked of every message that is not hidden, in order."""
        if not self.asked:
            return None
        protocol = self.protocol
        id_ = protocol.reply.get(frame.json)
        if id_ is None or not is_scalar(id_) or (protocol.when is not None and not protocol.when.matches(frame)):
            return None
        made = self._by_id.get(scalar_key(id_))
        if made is None or made.payload is not None:
            self.late_replies += 1
            return None
        self._forget(made)
        return Reply(made.request, protocol.failed(frame))

    def expire(self, now: float) -> list[Hashable]:
        """Return whose time is over at `now` (``reply-timeout``)."""
        late: list[Hashable] = []
        while self.next_deadline <= now:
            late.append(self._forget(self._deadlines[0][2]))
        return late

    def cancel(self, request: Hashable) -> None:
        """Nobody waits for the reply of `request` any more. Idempotent."""
        made = self._by_request.get(request)
        if made is not None:
            self._forget(made)

    def lost(self) -> list[tuple[Hashable, bool]]:
        """The socket has ended: return each pending request, and whether it was written (``reply-lost``) or never begun."""
        gone = list(self._by_request.values())
        for table in (self._by_id, self._by_request, self._turn, self._deadlines):
            table.clear()
        return [(made.request, made.payload is None) for made in gone]

    def _fresh(self, body: bytes) -> tuple[int | str, bytes | None]:
        while True:
            id_: int | str = self._ids.take()
            if self.protocol.text_ids:
                id_ = str(id_)
            if scalar_key(id_) not in self._by_id:  # else a caller chose it itself
                return id_, put(self.protocol.id, body, id_)

    def _forget(self, made: _Pending) -> Hashable:
        del self._by_id[made.key]
        del self._by_request[made.request]
        self._turn.pop(made.request, None)
        return made.request
