"""What was missed while a connection was down, fetched by a function (``catchUp``) before the messages of the new socket go on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from mooring.connection.host import CodeFailed, Host
from mooring.connection.recipe import CatchUp
from mooring.connection.recorded import RecordedConnection
from mooring.deadline import within
from mooring.errors import MooringError
from mooring.kept_events import ReconnectEvent

MAX_FETCHES = 2  # wait for the next socket: each may be as large as the mailbox


class Filled(Protocol):
    """Who takes what was fetched."""

    def fill_in(self, items: Iterable[Any]) -> None:
        """Take messages that come before all of the new socket.

        Raises:
            TypeError: If one is not of the data type; none is taken then.
            LimitReached: If they are too many bytes.
        """

    def catch_up_failed(self, exc: BaseException) -> None:
        """There is nothing to take: an event says why."""


async def catch_up(
    host: Host, connection: RecordedConnection, filled: Filled, wanted: CatchUp, event: ReconnectEvent
) -> None:
    """Have the function called with the event of the return, and hand over what it returns. Ends within its timeout, and well."""
    told = msgspec.to_builtins(event)
    try:
        async with within(wanted.timeout_s):
            found = await host.run_code(connection, "catchUp", wanted.function, wanted.params, told)
        if found is not None:
            filled.fill_in(found)
    except CodeFailed:
        pass  # an event has said so
    except TimeoutError:
        filled.catch_up_failed(TimeoutError(f"it did not return within {wanted.timeout_s:g} s"))
    # What user code has returned may be anything, and iterating it may raise anything.
    except Exception as exc:  # noqa: BLE001
        filled.catch_up_failed(exc)


class Missed:
    """What was missed, on its way to a connection: between two sockets there are no messages, so it is the first of the next one then.

    What one fetch has found is judged by itself. If no socket follows, it is dropped.
    """

    __slots__ = ("_fetches", "_filled", "_is_between")

    def __init__(self, filled: Filled) -> None:
        self._filled = filled
        self._is_between = False
        self._fetches: list[Sequence[Any]] = []

    def ready(self) -> None:
        """A socket is ready."""
        self._is_between = False
        fetches, self._fetches = self._fetches, []
        for found in fetches:
            try:
                self._filled.fill_in(found)
            # As above.
            except Exception as exc:  # noqa: BLE001
                self._filled.catch_up_failed(exc)

    def ended(self) -> None:
        """The ready socket has ended."""
        self._is_between = True

    def fill_in(self, items: Iterable[Any]) -> None:
        """Take what was fetched (`Filled`).

        Raises:
            MooringError: If `MAX_FETCHES` wait already.
        """
        if not self._is_between:
            self._filled.fill_in(items)
            return
        found = [*items]
        if found and len(self._fetches) >= MAX_FETCHES:
            raise MooringError(f"what {MAX_FETCHES} runs have fetched waits for the next socket already")
        if found:
            self._fetches.append(found)

    def catch_up_failed(self, exc: BaseException) -> None:
        """There is nothing to take (`Filled`)."""
        self._filled.catch_up_failed(exc)
