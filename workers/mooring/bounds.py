"""The bounds of each worker process: one row per setting of ``[worker]``, and of ``[redial]``. Leaf: values, no I/O.

The service's configuration is read into it, the page of settings is made from it, and the worker is started with it.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgspec
from msgspec import Meta

from mooring.checks import escape_pointer
from mooring.errors import Invalid

MAX_SETTING_S = 100 * 365 * 86_400.0  # a longer time cannot be told from for ever, and every clock can still add it
MAX_SETTING_COUNT = 2**62  # what SQLite and the link can hold, with room for a sum of two
MAX_CONNECTIONS = 10_000  # of one worker, where [limits] says nothing
MAX_PENDING_REQUESTS = 1_000  # of one connection, likewise
MIN_RATE = 0.001  # one dial in a quarter of an hour
MAX_LIMIT = 10_000
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(:[0-9]{1,5})?\Z|[0-9A-Fa-f:.]+\Z")

Seconds = Annotated[float, Meta(ge=0, le=MAX_SETTING_S)]
Positive = Annotated[float, Meta(gt=0, le=MAX_SETTING_S)]
Count = Annotated[int, Meta(ge=1, le=MAX_SETTING_COUNT)]


def doc(text: str) -> Meta:
    """Return the line that documents a setting."""
    return Meta(description=text)


class WorkerBounds(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of each worker process. Durations in seconds, sizes in bytes."""

    orphan_time_s: Annotated[
        Seconds, doc("Without a service for so long, a worker closes its connections and ends; 0: never.")
    ] = msgspec.field(default=300.0, name="orphan_time")
    mailbox_items: Annotated[Count, doc("Callbacks and calls waiting; above it the sockets wait.")] = 10_000
    mailbox_bytes: Annotated[Count, doc("The same, in bytes.")] = 64 * 1024**2
    inbound_messages: Annotated[
        Count, doc("Messages of one connection waiting for its handler; above it its socket waits.")
    ] = 1_000
    inbound_bytes: Annotated[Count, doc("The same, in bytes.")] = 4 * 1024**2
    outbound_bytes: Annotated[Count, doc("Bytes waiting for a peer that does not read.")] = 4 * 1024**2
    outbox_bytes: Annotated[
        Count, doc("Events not yet stored by the journal; above it all sockets of the worker wait.")
    ] = 64 * 1024**2
    log_max_bytes: Annotated[
        Count, doc("A worker's log is rotated at this size; one that was moved away is begun anew.")
    ] = 10 * 1024**2
    log_files: Annotated[Count, doc("So many rotated logs are kept.")] = 3


class HostLimit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``[redial] hosts`` says of one host; None: as all others."""

    rate: float | None = None
    burst: int | None = None


class RedialLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How fast one worker dials one ``host:port`` again.

    The pace of `process/redial`.
    """

    rate: Annotated[
        float, doc("Redials a second of each worker to one host:port; 0: no limit. 2,000 lost ones are back in 40 s.")
    ] = 50.0  # a server that just came up bears it
    burst: Annotated[int, doc("So many go at once before the rate counts.")] = (
        10  # a handful lost together does not wait
    )
    at_once: Annotated[int, doc("Handshakes under way to one host:port.")] = (
        32  # who accepts and says nothing holds no more
    )
    hosts: Annotated[
        dict[str, HostLimit], doc("`host` or `host:port` → its own `rate` and `burst`; the longer name first.")
    ] = {}

    def check(self) -> list[Invalid]:
        """Return what is wrong with the values; pointers lead into ``[redial]``."""
        wrong = _check_limit(self.rate, self.burst, "")
        if not 1 <= self.at_once <= MAX_LIMIT:
            wrong.append(Invalid("/at_once", f"must be 1 to {MAX_LIMIT}"))
        for name, entry in self.hosts.items():
            place = f"/hosts/{escape_pointer(name)[:100]}"
            if not _HOST.match(name):
                wrong.append(Invalid(place, "must be host or host:port"))
            wrong += _check_limit(entry.rate, entry.burst, place)
        return wrong

    def of(self, place: str) -> tuple[float, int]:
        """Return rate and burst of `place`."""
        host = place.rpartition(":")[0]
        names = {name.lower(): entry for name, entry in self.hosts.items()}
        entry = names.get(place) or names.get(host) or names.get(host.strip("[]")) or HostLimit()
        return (self.rate if entry.rate is None else entry.rate), (self.burst if entry.burst is None else entry.burst)


def _check_limit(rate: float | None, burst: int | None, pointer: str) -> list[Invalid]:
    wrong = []
    if rate is not None and rate != 0 and not MIN_RATE <= rate <= MAX_LIMIT:  # also refuses NaN
        wrong.append(Invalid(f"{pointer}/rate", f"must be 0 (no limit), or {MIN_RATE} to {MAX_LIMIT} dials a second"))
    if burst is not None and not 1 <= burst <= MAX_LIMIT:
        wrong.append(Invalid(f"{pointer}/burst", f"must be 1 to {MAX_LIMIT}"))
    return wrong
