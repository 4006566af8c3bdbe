"""The application's own heartbeat (``keepAlive``): what is sent and awaited, and what of the peer's is hidden. Pure data.

Its clocks are not here: this says what they are set to.
"""

from __future__ import annotations

import math
import re

import msgspec
from msgspec import UNSET, UnsetType

from mooring.connection.matcher import Frame, Matcher, compile_matcher
from mooring.connection.recipe import Uses
from mooring.connection.recipe_compiler import check_duration, check_size
from mooring.connection.template import MessageTemplate, compile_outgoing, is_name
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest

MAX_KEEP_ALIVE_BYTES = 64 * 1024  # as a recipe
MAX_HIDDEN = 16  # matchers, each asked for each frame
MIN_INTERVAL_S, MAX_INTERVAL_S = 1.0, 86_400.0
MIN_TIMEOUT_S = 0.1

_WHOLE_HOLE = re.compile(r"\$\{([^}]*)\}\Z")


class KeepAlive(msgspec.Struct, frozen=True, kw_only=True):
    """The compiled ``keepAlive``. Durations in seconds.

    `send`: goes out each `interval_s`, with `when_idle` only after so long without our sending and without a message. `expect`:
    stops the `timeout_s` that then runs; nothing else does. `hide`: the peer's own heartbeats. `within_s`: dead when neither a
    hidden frame nor a message came for so long; 0: never. `interval_name`: the value that replaces `interval_s` once it is known.
    """

    send: MessageTemplate | None = None
    expect: Matcher | None = None
    interval_s: float = 0.0
    timeout_s: float = 0.0
    when_idle: bool = False
    hide: tuple[Matcher, ...] = ()
    within_s: float = 0.0
    interval_name: str | None = None
    unit_s: float = 1.0
    uses: Uses = msgspec.field(default_factory=Uses)

    def hides(self, frame: Frame) -> bool:
        """Say whether `frame` is a heartbeat of the peer's own."""
        return any(matcher.matches(frame) for matcher in self.hide)

    def told_interval_s(self, value: object) -> float:
        """Return the interval that `value` tells, within its bounds; that of the request where it is no number."""
        try:
            told = float(value) * self.unit_s  # type: ignore[arg-type]  # anything may have come
        except (TypeError, ValueError, OverflowError):
            return self.interval_s
        if isinstance(value, bool) or math.isnan(told):
            return self.interval_s
        return min(max(told, MIN_INTERVAL_S), MAX_INTERVAL_S)


def compile_keep_alive(request: KeepAliveRequest, pointer: str, wrong: list[Invalid]) -> KeepAlive:
    """Return what `request` describes; what is not valid is added to `wrong`."""
    if not check_size(request, pointer, MAX_KEEP_ALIVE_BYTES, wrong):
        return KeepAlive()
    uses = Uses()

    def bad(place: str, detail: str) -> None:
        wrong.append(Invalid(pointer + place, detail))

    def matcher(item: object, place: str) -> Matcher:
        made = compile_matcher(item, pointer + place, wrong)  # type: ignore[arg-type]  # it says itself what it is not
        if made.needs_json:
            uses.json.append(pointer + place)
        return made

    send = compile_outgoing(request.send, request.send_base64, pointer, wrong)
    if send is not None:
        uses.add(send.needs, f"{pointer}/send")
    interval_s = 0.0 if isinstance(request.interval, UnsetType) else request.interval
    timeout_s = interval_s if isinstance(request.timeout, UnsetType) else request.timeout
    if send is None:
        if not request.hide and not request.within:
            bad("", "needs one of send, sendBase64, hide and within")
        for key, given in (
            ("expect", request.expect is not UNSET),
            ("whenIdle", request.when_idle),
            ("intervalFrom", request.interval_from is not UNSET),
        ):
            if given:
                bad(f"/{key}", "needs send or sendBase64")
    elif request.interval is UNSET:
        bad("/interval", "is required with send")
    if request.interval is not UNSET:
        check_duration(interval_s, MIN_INTERVAL_S, MAX_INTERVAL_S, f"{pointer}/interval", wrong)
    if request.timeout is not UNSET:
        check_duration(timeout_s, MIN_TIMEOUT_S, MAX_INTERVAL_S, f"{pointer}/timeout", wrong)
    if request.within != 0:
        check_duration(request.within, MIN_TIMEOUT_S, MAX_INTERVAL_S, f"{pointer}/within", wrong)
    if len(request.hide) > MAX_HIDDEN:
        bad("/hide", f"has {len(request.hide)} entries; at most {MAX_HIDDEN} are allowed")
    interval_name = None
    if not isinstance(request.interval_from, UnsetType):
        found = _WHOLE_HOLE.match(request.interval_from)
        if found is None or not is_name(found[1]):
            bad("/intervalFrom", "must be ${name}, of remember or renew")
        else:
            interval_name = found[1]
            uses.names.setdefault(interval_name, f"{pointer}/intervalFrom")
    return KeepAlive(
        send=send,
        expect=None if request.expect is UNSET else matcher(request.expect, "/expect"),
        interval_s=interval_s,
        timeout_s=timeout_s,
        when_idle=request.when_idle,
        hide=tuple(matcher(item, f"/hide/{index}") for index, item in enumerate(request.hide[:MAX_HIDDEN])),
        within_s=request.within,
        interval_name=interval_name,
        unit_s=0.001 if request.unit == "ms" else 1.0,
        uses=uses,
    )
