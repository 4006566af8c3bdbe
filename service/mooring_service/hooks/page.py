"""What is posted: the body of a batch, the headers round it, and the signature over both. Pure.

Events are byte for byte those of pages and streams. The signature is that of Standard Webhooks (``v1``): HMAC-SHA256 over id,
time and the bytes that are sent.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

import msgspec

from mooring.version import __version__
from mooring_service.hook_options import Format

_EVENT = b',"event":'
_TYPES: dict[Format, str] = {
    "page": "application/json",
    "event": "application/json",
    "lines": "application/x-ndjson",
}


class _Typed(msgspec.Struct):
    type: str = ""


_type_of = msgspec.json.Decoder(_Typed).decode


class Cut(msgspec.Struct, frozen=True):
    """One batch: what goes out in one POST, and comes again as it is until its outcome is known.

    Attributes:
        generation: Of the hook, when it was cut.
        after, next: Ids: where it begins, and where to go on behind it, also past what the filter left out.
        position: The one that `next` names.
        events: Position and JSON of each.
        time_ms: When the first of them was committed (`Journal.now_ms`).
    """

    generation: int
    after: str
    next: str
    position: int
    events: list[tuple[int, bytes]]
    time_ms: int = 0

    @property
    def count(self) -> int:
        """How many events it holds."""
        return len(self.events)

    @property
    def last(self) -> int:
        """Position of its last event."""
        return self.events[-1][0]

    def id_of(self, position: int) -> str:
        """Return the id of an event of it."""
        return f"{self.next.partition('-')[0]}-{position}"


def webhook_id(hook: str, generation: int, after: str, next_: str) -> str:
    """Return the id of a batch: the same bytes have the same one, in every format."""
    return f"{hook}-{generation}_{after}_{next_}"


def body_of(hook: str, cut: Cut, form: Format, *, test: bool = False) -> bytes:
    """Return the body of a POST."""
    events = [event for _, event in cut.events]
    if form == "page" or test:
        mark = b',"test":true' if test else b""
        return b'{"hook":"%b","generation":%d,"after":"%b","next":"%b"%b,"events":[%b]}' % (
            hook.encode(), cut.generation, cut.after.encode(), cut.next.encode(), mark, b",".join(events),
        )  # fmt: skip
    return events[0] if form == "event" else b"".join([event + b"\n" for event in events])


def headers_of(
    hook: str, cut: Cut, form: Format, *, number: str, body: bytes, keys: Iterable[bytes], time_s: int, attempt: int,
    test: bool = False,
) -> list[tuple[str, str]]:  # fmt: skip
    """Return the headers of one attempt: its time and signature are its own.

    Args:
        number: The `webhook_id`.
        keys: The bytes of the secrets that are valid, newest first.
        time_s: Since 1970.
        attempt: 1 for the first one of this batch.
    """
    found = [
        ("content-type", "application/json" if test else _TYPES[form]),
        ("user-agent", f"mooring/{__version__}"),
        ("webhook-id", number),
        ("webhook-timestamp", str(time_s)),
        ("webhook-signature", signature(number, time_s, body, keys)),
        ("mooring-attempt", str(attempt)),
    ]
    if form != "page" and not test:
        found += [
            ("mooring-hook", hook),
            ("mooring-generation", str(cut.generation)),
            ("mooring-after", cut.after),
            ("mooring-next", cut.next),
        ]
    return found


def signature(number: str, time_s: int, body: bytes, keys: Iterable[bytes]) -> str:
    """Return ``webhook-signature``: one entry for each secret."""
    found = []
    for key in keys:
        signed = hmac.new(key, f"{number}.{time_s}.".encode(), hashlib.sha256)
        signed.update(body)
        found.append(f"v1,{base64.b64encode(signed.digest()).decode()}")
    return " ".join(found)


def thinned(position: int, event: bytes, max_bytes: int, epoch: str) -> bytes:
    """Return `event`, or, where it is larger than `max_bytes` (0: none is), its head with a link to the rest."""
    if not 0 < max_bytes < len(event):
        return event
    head, _, rest = event.partition(_EVENT)
    thin = {
        "type": _type_of(rest[:-1]).type,
        "omitted": "size",
        "bytes": len(rest) - 1,
        "href": f"/v1/events?after={epoch}-{position - 1}&limit=1",
    }
    return head + _EVENT + msgspec.json.encode(thin) + b"}"
