"""A connection whose messages may mean something to mooring itself: its socket, its dials, and what it says between them.

Without a recipe, a heartbeat and the like there is no `Conversation`, and messages go straight on. On the I/O loop only.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import msgspec

from mooring.connection.acks import Owed
from mooring.connection.asked import compiled_of
from mooring.connection.conversation import Conversation
from mooring.connection.host import Host
from mooring.connection.kept_rules import NOTHING_ASKED
from mooring.connection.recorded import RecordedConnection
from mooring.connection.requests import Ids
from mooring.connection.secret_headers import has_templates, with_secrets
from mooring.connection.sends import Sends
from mooring.connection.state import ConnectionState
from mooring.connection.watch import Watch
from mooring.errors import ErrCode, ErrorEntry
from mooring.events import Kind, encode_event, now_us, rfc3339
from mooring.kept_events import ReconnectEvent, SilenceEvent
from mooring.kept_options import RecipeRequest
from mooring.link.record import ConnectionCreated
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialled
from mooring.wire.socket import Socket

log = logging.getLogger("mooring.worker")


class ConversingConnection(RecordedConnection, ABC):
    """One connection, as its conversation sees it (`conversation.Party`).

    Args:
        last_socket: Number of its last socket, where another process of the worker had it.

    Attributes:
        ids: ``nextId``: of steps, answers and requests alike.
    """

    __slots__ = ("_conversation", "_host", "_sends", "_socket", "ids")

    def __init__(
        self,
        host: Host,
        created: ConnectionCreated,
        options: ConnectionOptions,
        handler: object | None,
        last_socket: int = 0,
    ) -> None:
        super().__init__(created, options, handler)
        self._host = host
        self._socket: Socket | None = None
        self._sends: Sends = Sends(host, self)
        self.ids = Ids(last_socket)
        self._conversation: Conversation | None = None
        if handler is not None:
            host.attend(self)
        if options.converses:
            self._converse()

    def _record(self, kind: Kind, event: msgspec.Struct) -> None:
        if self.handler is not None:
            self._host.mailbox.post(self, kind, event)
        else:
            self.record(self._host.outbox, kind, encode_event(event))
            self._host.wake()

    def _change_conversation(self) -> None:
        """The options have changed: heartbeats and the clock of messages at once, all else with the next socket."""
        if not self.options.converses:
            if self._conversation is not None:
                self._conversation.change(NOTHING_ASKED)
        elif self._conversation is not None:
            self._conversation.change(compiled_of(self.options))
        else:
            conversation = self._converse()
            if self.state is ConnectionState.CONNECTED and self._socket is not None:
                conversation.join(self._socket)

    def _converse(self) -> Conversation:
        self._host.attend(self)
        self._conversation = Conversation(self._host, self, self, compiled_of(self.options))
        return self._conversation

    @property
    def sends(self) -> Sends:
        """What is sent on it."""
        return self._sends

    # An attempt.

    async def _dial_once(self, attempt: int = 1, *, fresh: bool = False) -> Dialled:
        """Fetch what the attempt needs, and dial.

        Args:
            attempt: How many dials there were since the loss, this one included.
            fresh: What was fetched before was refused.

        Raises:
            DialFailed: And nothing else, but for its cancellation.
        """
        began = self._host.loop.time()
        options, dialler = self.options, self._host.dialler
        try:
            if self._conversation is not None:
                options = await self._conversation.attempt.prepare(self.next_socket, attempt, fresh=fresh)
                began = self._host.loop.time()
                self._prepared()
            elif has_templates(options.headers):
                options = with_secrets(options, dialler.secrets, declared=self.created.declared)
            dialled = await dialler.dial(options)
        except DialFailed:
            raise
        # The top of a task: whatever a dial may raise (no thread can be started, for one), it must not be dialled for ever.
        except Exception as exc:
            log.exception("the dial of connection %d has failed in a way that is not foreseen", self.id)
            message = f"the dial failed inside the worker, whose log says why: {type(exc).__name__}"
            raise DialFailed([ErrorEntry(ErrCode.UNREACHABLE, message)]) from exc
        self._host.metrics.dial.observe(self._host.loop.time() - began)
        return dialled

    def _prepared(self) -> None:
        """All that the attempt needs was fetched: it goes on."""

    @property
    def next_socket(self) -> int:
        """The number that the next socket will have, once it is ready."""
        return 1

    def _begin_opening(self, socket: Socket, dialled: Dialled) -> None:
        """The socket is there: it is ready once the steps of the opening are done, at once where there are none."""
        if self._conversation is None:
            self.opened(None)
        else:
            self._conversation.begin(socket)
        socket.start(dialled.tail)  # also where the first step has failed: then it only ends

    @abstractmethod
    def opened(self, resumed: bool | None) -> ReconnectEvent | None:
        """The socket is ready; a return is an event."""

    @abstractmethod
    def opening_failed(self, error: ErrorEntry, *, refused: bool = False, timed_out: bool = False) -> None:
        """The opening has failed; `refused`: the server has said no."""

    @property
    def opening(self) -> tuple[int, int]:
        """Which step of the opening is under way, from 1, and of how many; 0: none is."""
        step = 0 if self._conversation is None else self._conversation.opening
        recipe = self.options.recipe
        return (step, len(recipe.opening)) if step and isinstance(recipe, RecipeRequest) else (0, 0)

    def peer_asks(self, at_once: bool) -> bool:
        """The peer asks for a new socket; False: there will be no other."""
        return False

    def silent(self, since: float) -> None:
        """No message has come since then (the loop's time)."""
        last = None if self.last_message_at_us is None else rfc3339(self.last_message_at_us)
        began_us = now_us() - round((self._host.loop.time() - since) * 1e6)
        self._record(Kind.onSilence, SilenceEvent(since=rfc3339(began_us), last_message_at=last))

    def fill_in(self, items: Iterable[Any]) -> None:
        """Take messages that were fetched elsewhere: only a connection that returns has missed any."""

    def catch_up_failed(self, exc: BaseException) -> None:
        """What was missed could not be fetched: an event says why."""
        self._host.tell_failure(self, "catchUp", exc)

    @property
    def _watch(self) -> Watch | None:
        """The clocks of the ready socket, where there are any."""
        return None if self._conversation is None else self._conversation.watch

    # What comes.

    def messages(self, items: list[tuple[int, bytes]]) -> None:
        """Take the messages of one read."""
        if self._conversation is None:
            self.deliver(items)
        else:
            self._conversation.take(items)

    @abstractmethod
    def deliver(self, items: list[tuple[int, bytes]], owed: Owed | None = None) -> bool:
        """Record messages, or hand them over; say whether any was no reply to a request."""

    @property
    def keep_alives(self) -> int:
        """Heartbeats that came, and were hidden."""
        return 0 if self._conversation is None else self._conversation.keep_alives

    @abstractmethod
    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """Take that something is wrong; with a `close_code` say so on the wire and give the peer time to answer."""

    @abstractmethod
    def resume_if_room(self) -> None:
        """Read again if every queue that this connection feeds has room."""
