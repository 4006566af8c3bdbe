"""What mooring itself says and hears on one id: the steps of the opening, answers, heartbeats, and the clocks. On the I/O loop only.

What is to be said and what a message means is decided by `session` and `clocks`, which are pure and die with their socket; here
it is done. Messages pass through on their way to the journal or the handler: what comes before the socket is ready is held.
"""

from __future__ import annotations

import logging
import math
from typing import Protocol

from mooring.connection import session as acts
from mooring.connection.acks import Owed
from mooring.connection.attempt import Attempt
from mooring.connection.catching_up import Filled, Missed, catch_up
from mooring.connection.held import Held
from mooring.connection.host import Host
from mooring.connection.kept_rules import Compiled
from mooring.connection.matcher import Frame
from mooring.connection.recipe import EMPTY, CatchUp, Recipe
from mooring.connection.recorded import RecordedConnection
from mooring.connection.requests import Ids
from mooring.connection.sends import Sends
from mooring.connection.session import Action, Session
from mooring.connection.template import Unfilled
from mooring.connection.watch import Watch
from mooring.deadline import Deadline
from mooring.errors import ErrCode, ErrorEntry
from mooring.kept_events import ReconnectEvent
from mooring.wire.frames import BINARY, TEXT
from mooring.wire.socket import Socket, SocketState

log = logging.getLogger("mooring.worker")


class Party(Filled, Protocol):
    """The connection whose conversation it is: it decides what follows, and records it."""

    @property
    def sends(self) -> Sends:
        """What is sent, goes there."""

    @property
    def ids(self) -> Ids:
        """``nextId`` of the connection."""

    @property
    def next_socket(self) -> int:
        """The number that a socket in its opening will have."""

    def opened(self, resumed: bool | None) -> ReconnectEvent | None:
        """All steps are done; a return is an event."""

    def opening_failed(self, error: ErrorEntry, *, refused: bool = False, timed_out: bool = False) -> None:
        """The opening has failed; `refused`: the server has said no."""

    def failed(self, err_code: ErrCode, message: str, close_code: int | None) -> None:
        """The ready socket is to be closed with `close_code`, or was dropped."""

    def peer_asks(self, at_once: bool) -> bool:
        """The peer asks for a new socket; False: there will be no other."""

    def silent(self, since: float) -> None:
        """No message has come since then (the loop's time), and that is to be told."""

    def deliver(self, items: list[tuple[int, bytes]], owed: Owed | None = None) -> bool:
        """Messages for the journal or the handler, in order; say whether any was no reply to a request."""

    def resume_if_room(self) -> None:
        """Read again, if there is room."""


class Conversation:
    """The conversation of one id.

    Args:
        party: Whose it is; `connection` is the same, as it is recorded.

    Attributes:
        attempt: What the next attempt begins with.
        keep_alives: Heartbeats that came, and were hidden.
        watch: The clocks of the ready socket; None: there is none.
        proven: A message has come over the last ready socket, or nobody waits for one.
    """

    def __init__(self, host: Host, party: Party, connection: RecordedConnection, compiled: Compiled) -> None:
        self._host = host
        self._party = party
        self._connection = connection
        self._recipe = compiled.recipe or EMPTY
        self._keep_alive = compiled.keep_alive
        self.attempt = Attempt(host, connection, compiled)
        self.keep_alives = 0
        self.proven = True
        self._socket: Socket | None = None
        self._session: Session | None = None
        self.watch: Watch | None = None  # from ready on
        self._listens = True  # the session wants to see each message
        self._held = Held(host, connection, self._write, party.deliver)
        self._catching_up = False
        self._missed = Missed(party)
        self._unanswered: frozenset[tuple[str, Unfilled]] = frozenset()  # what was logged of this socket
        self._timer: Deadline | None = None  # of the step that is awaited

    # A socket, from the handshake to its end.

    def begin(self, socket: Socket) -> None:
        """The handshake is done: say what comes first."""
        self._held.prepare(self._recipe)
        session = self._join(socket, self._recipe)
        if self._obey(session.begin(self._host.loop.time())):
            self._set_timer()

    def join(self, socket: Socket) -> None:
        """Take part in a socket that is ready already: what is said before that is said on the next one."""
        self._join(socket, EMPTY)
        self._begin_watch()

    def _join(self, socket: Socket, recipe: Recipe) -> Session:
        attempt = self.attempt
        self._socket = socket
        self._session = Session(
            recipe,
            self._keep_alive,
            attempt.memory,
            attempt.renewed,
            attempt.secrets,
            self._party.ids,
            self._party.next_socket,
        )
        self._listens, self._unanswered = True, frozenset()
        return self._session

    def change(self, compiled: Compiled) -> None:
        """Go on otherwise: heartbeats and clocks at once, the recipe with the next socket."""
        self.attempt.compiled = compiled
        self._recipe, self._keep_alive = compiled.recipe or EMPTY, compiled.keep_alive
        if self._session is not None:
            self._session.change(self._keep_alive)
        if self.watch is not None:
            self.watch.stop()
            self._begin_watch()

    def ended(self) -> None:
        """The socket has ended, or is given up: nothing of it counts any more. Idempotent."""
        if self._session is None:
            return
        if self.watch is None:
            self.proven = True
            self._host.metrics.opening_dropped += len(self._held)
        else:
            self._catching_up = False
            self._release()  # it has come, whatever was missed before it
            self.proven = self.watch.proven
            self.watch.stop()
            self._missed.ended()
        self._held.drop()
        self._party.sends.on_sent = None
        self._socket = self._session = self.watch = None
        self._set_timer()

    def take(self, items: list[tuple[int, bytes]]) -> None:
        """Take the messages of one read."""
        session, watch = self._session, self.watch
        if session is None:
            return
        now = self._host.loop.time()
        sees = watch is None or (self._listens and session.sees(items))
        if watch is not None and not (sees or self._catching_up or watch.expects):
            watch.heard(now, hidden=not self._party.deliver(items))
            return
        data_type = self._connection.options.data_type
        always, per_frame = data_type in ("text", "object"), data_type == "auto"
        for opcode, payload in items:
            frame = Frame(payload, always or (per_frame and opcode == TEXT))
            hidden = False
            actions: list[Action] = []
            if self._listens:
                heard = session.hear(frame, now)
                hidden, actions = heard.hidden, heard.actions
            watch = self.watch
            hidden = hidden or (watch is not None and watch.answers(frame))
            # What an answer waits for must come into the journal, whatever else it is.
            if hidden and not any(isinstance(action, acts.Send) and action.stored for action in actions):
                self.keep_alives += 1
                self._host.figures_changed(self._connection)
                if watch is not None:
                    watch.heard(now, hidden=True)
            else:
                self._held.add(opcode, payload)
            if actions and not self._obey(actions):
                return
        if self.watch is None and self._held.overflows:
            self._fail_opening("too much came before it was ready (worker.inbound_messages, inbound_bytes)")
            return
        self._release()
        if self._session is not session:
            return
        if self.watch is None:
            self._set_timer()
        else:
            self.watch.learn()

    def has_room(self) -> bool:
        """Say whether more may be read. In the opening all is read: the peer has its time to answer, and what comes has a bound."""
        return not self._held.owes_much and not (self._catching_up and self._held.overflows)

    @property
    def opening(self) -> int:
        """Which step of the opening is under way, from 1; 0: none."""
        session = self._session
        return 0 if session is None or self.watch is not None else session.step

    def _obey(self, actions: list[Action]) -> bool:
        """Do what follows from a message, or from the time; False: the socket is over."""
        party = self._party
        for action in actions:
            match action:
                case acts.Send(stored=True):
                    self._held.answer(action)
                case acts.Send():
                    self._write(action.payload, action.binary)
                case acts.Ready(resumed):
                    self._ready(resumed)
                case acts.Failed(detail, refused):
                    self._fail_opening(detail, refused=refused)
                    return False
                case acts.Stopped(rule, detail):
                    message = f"{rule}: {detail}"
                    if self.opening:
                        party.opening_failed(ErrorEntry(ErrCode.STOPPED_BY_RECIPE, message))
                        return False
                    self._release()
                    party.failed(ErrCode.STOPPED_BY_RECIPE, message, 1000)
                    return False
                case acts.Asked(url, at_once):
                    if self.opening:
                        self.attempt.next_url = url
                        self._fail_opening("the peer asked for a new socket")
                        return False
                    self._release()
                    if party.peer_asks(at_once):
                        self.attempt.next_url = url
                        return False
                case acts.Unanswered(rule, unfilled):
                    self._host.metrics.unanswered += 1
                    if (rule, unfilled) not in self._unanswered:  # any message may ask for it
                        self._unanswered |= {(rule, unfilled)}
                        log.warning("connection %d: %s is not sent: %s", self._connection.id, rule, unfilled)
        return self._session is not None

    def _fail_opening(self, detail: str, *, refused: bool = False, timed_out: bool = False) -> None:
        self._party.opening_failed(ErrorEntry(ErrCode.OPENING_FAILED, detail), refused=refused, timed_out=timed_out)

    def _ready(self, resumed: bool | None) -> None:
        session = self._begin_watch()
        event = self._party.opened(resumed)
        self._missed.ready()
        catch_up = self._recipe.catch_up
        if event is not None and catch_up is not None and self._session is not None:
            self._catching_up = True
            self._host.spawn(self._catch_up(session, catch_up, event))

    def _begin_watch(self) -> Session:
        session, socket = self._session, self._socket
        assert session is not None and socket is not None, "it is there"
        self._listens = session.listens
        self.watch = Watch(
            self._host, self._connection, self._keep_alive, session, self.attempt,
            say=self._write, dead=self._drop, silent=self._party.silent, is_reading=socket.is_reading,
        )  # fmt: skip
        if socket.state is not SocketState.OPEN:
            self.watch.stop()  # our close frame is on its way: nothing is heard any more
        self._set_timer()
        idle = self._keep_alive is not None and self._keep_alive.when_idle
        self._party.sends.on_sent = self.watch.sent if idle else None
        return session

    def _release(self) -> None:
        """Hand over what is held."""
        if self.watch is None or self._catching_up or not len(self._held):
            return
        watch, ordinary = self.watch, self._held.release()
        watch.heard(self._host.loop.time(), hidden=not ordinary)

    def _write(self, payload: bytes, binary: bool) -> None:
        socket = self._socket
        if socket is None or socket.state is not SocketState.OPEN:
            return
        if not self._party.sends.send_own(BINARY if binary else TEXT, payload, socket.outbound):
            self._host.metrics.unanswered += 1
        elif self.watch is not None:
            self.watch.sent()

    def _set_timer(self) -> None:
        """The step that is awaited has its time; from ready on all time is the watch's."""
        at = math.inf if self._session is None or self.watch is not None else self._session.deadline
        if self._timer is not None and self._timer.at != at:
            self._timer.cancel()
            self._timer = None
        if at < math.inf:
            self._timer = self._timer or Deadline(self._host.loop, at, self._late)
            self._host.touch(self._connection)  # its record says which step it is

    def _late(self) -> None:
        if self._session is not None and self.watch is None:
            for action in self._session.late(self._host.loop.time()):
                if isinstance(action, acts.Failed):
                    self._fail_opening(action.detail, timed_out=True)

    def _drop(self, err_code: ErrCode, message: str) -> None:
        socket = self._socket
        assert socket is not None, "its clocks run"
        self._party.failed(err_code, message, None)
        socket.drop(1001, message.encode()[:120].decode("utf-8", "ignore"))

    async def _catch_up(self, session: Session, wanted: CatchUp, event: ReconnectEvent) -> None:
        await catch_up(self._host, self._connection, self._missed, wanted, event)
        if session is self._session:
            self._catching_up = False
            self._release()
            self._party.resume_if_room()
