"""A hook's place in the journal, and what is counted with it. Pure."""

from __future__ import annotations

import msgspec

from mooring_service.hooks.state import Reason
from mooring_service.journal.journal import StoredHook


class Failing(msgspec.Struct, frozen=True):
    """That a hook was told to be Failing: since when (microseconds since 1970), and why (`state.Reason`)."""

    since_us: int
    reason: Reason


class _State(msgspec.Struct, frozen=True):
    after: str
    delivered: int = 0
    skipped: int = 0
    last_success_us: int = 0
    known: tuple[int, ...] = ()
    failing: Failing | None = None


class Place(msgspec.Struct, frozen=True):
    """How far a hook has come.

    Attributes:
        generation: Grows with each change of what a range of events is posted as.
        epoch, position: Everything up to here is done; ``""``: the record that it belonged to is gone.
        after: The `next` of the last batch: where the next one begins. The filter may have left out all up to `position`.
        delivered, skipped: Events, since the hook was made.
        last_success_us: Microseconds since 1970; 0: there was none.
        known: The connections that have borne the names which the hook follows.
        failing: It was told to be Failing, and not yet that it works again; kept, so that a restart tells it no second time.
    """

    generation: int
    epoch: str
    position: int
    after: str
    delivered: int = 0
    skipped: int = 0
    last_success_us: int = 0
    known: tuple[int, ...] = ()
    failing: Failing | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_State).decode


def stored(name: str, place: Place) -> StoredHook:
    """Return what the journal keeps."""
    state = _State(place.after, place.delivered, place.skipped, place.last_success_us, place.known, place.failing)
    return StoredHook(name, place.generation, place.epoch, place.position, _encode(state))


def recovered(hook: StoredHook) -> Place:
    """Return the place that the journal kept."""
    state = msgspec.structs.asdict(_decode(hook.state))  # not deep: `failing` stays what it is
    return Place(hook.generation, hook.epoch, hook.position, **state)
