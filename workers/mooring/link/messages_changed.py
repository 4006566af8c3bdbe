"""What worker and service say to each other about connections that change in their life; a part of the unions of `messages`. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from mooring.changes import Changes
from mooring.errors import Invalid
from mooring.link.lenient import lenient
from mooring.options import ConnectionRequest

if TYPE_CHECKING:
    LinkChanges = Changes
    LinkRequest = ConnectionRequest
else:
    LinkChanges = lenient(Changes)
    LinkRequest = lenient(ConnectionRequest)


class Change(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Change what a connection is asked for, from its next attempt on; clocks, and what sends do while it is down, at once."""

    request: int
    connection: int
    changes: LinkChanges


class Changed(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A connection was changed, and this is what it is asked for now; show it once `after` is stored. Request 0: by code in the worker.

    `done`: it was changed. `status`: as in `ReconnectDone`. `kept` False: it is not, and other things than clocks were to be changed. `errors`: nothing
    was changed. `secret` may not be sent to `host`.
    """

    request: int
    connection: int
    after: int
    status: str
    kept: bool = True
    spec: LinkRequest | None = None
    errors: list[Invalid] = []
    secret: str = ""
    host: str = ""
    done: bool = False
