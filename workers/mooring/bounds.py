"""The bounds of each worker process: one row per setting of ``[worker]``. Leaf: values, no I/O.

The service's configuration is read into it, the page of settings is made from it, and the worker is started with it.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_SETTING_S = 100 * 365 * 86_400.0  # a longer time cannot be told from for ever, and every clock can still add it
MAX_SETTING_COUNT = 2**62  # what SQLite and the link can hold, with room for a sum of two
MAX_CONNECTIONS = 10_000  # of one worker, where [limits] says nothing

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
