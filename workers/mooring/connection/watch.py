"""The clocks of one ready socket (`clocks`), with their alarm and the heartbeats that they send. On the I/O loop only.

Made when the socket is ready, and stopped with it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mooring.connection.attempt import Attempt
from mooring.connection.clocks import Beat, Clocks, Dead, Silent
from mooring.connection.host import Host
from mooring.connection.keep_alive import KeepAlive
from mooring.connection.matcher import Frame
from mooring.connection.recorded import RecordedConnection
from mooring.connection.session import Session
from mooring.connection.template import Unfilled
from mooring.deadline import PASS_S
from mooring.errors import ErrCode
from mooring.metrics import count

log = logging.getLogger("mooring.worker")


class Watch:
    """Who looks whether the peer's program is alive, and whether messages come.

    Args:
        say: Writes a heartbeat: its payload, and whether it is binary.
        dead: Called once: the socket is to be dropped for this.
        silent: Called once a silence, with its begin, where it is only to be told.
        is_reading: False: reading was paused before.
    """

    __slots__ = (
        "_attempt", "_clocks", "_connection", "_dead", "_host", "_keep_alive", "_looks_again", "_say", "_session", "_silent",
        "_stopped", "_told_interval", "_unfilled",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        connection: RecordedConnection,
        keep_alive: KeepAlive | None,
        session: Session,
        attempt: Attempt,
        *,
        say: Callable[[bytes, bool], None],
        dead: Callable[[ErrCode, str], None],
        silent: Callable[[float], None],
        is_reading: bool = True,
    ) -> None:
        self._host = host
        self._connection = connection
        self._keep_alive = keep_alive
        self._session = session
        self._attempt = attempt
        self._say = say
        self._dead = dead
        self._silent = silent
        self._clocks = Clocks(keep_alive, connection.options.data_timeout_s, host.loop.time())
        self._looks_again = self._stopped = False
        self._told_interval: Any = None
        self._unfilled: Unfilled | None = None  # why the last heartbeat was not sent
        if not is_reading:
            self.paused()
        self.learn()

    @property
    def proven(self) -> bool:
        """Whether a message has come, where one is waited for."""
        return not self._connection.options.data_timeout_s or self._clocks.proven

    @property
    def expects(self) -> bool:
        """Whether the answer to a heartbeat is awaited."""
        return self._clocks.awaits

    def answers(self, frame: Frame) -> bool:
        """Say whether `frame` is the answer to a heartbeat, and take it as one."""
        keep_alive = self._keep_alive
        if not self._clocks.awaits or keep_alive is None or keep_alive.expect is None:
            return False
        if not keep_alive.expect.matches(frame):
            return False
        self._clocks.answered()
        count(self._host.metrics.keep_alives, "answered")
        return True

    def heard(self, now: float, *, hidden: bool = False) -> None:
        """A message has come, or a heartbeat that is hidden."""
        if hidden:
            self._clocks.last_hidden_at = now
        else:
            self._clocks.last_message_at = now

    def sent(self) -> None:
        """Something was sent."""
        self._clocks.last_sent_at = self._host.loop.time()

    def paused(self) -> None:
        """Nothing is read any more: nobody can prove anything."""
        self._clocks.paused(self._host.loop.time())

    def resumed(self) -> None:
        """Reading goes on."""
        self._clocks.resumed(self._host.loop.time())
        self.set_alarm()

    def learn(self) -> None:
        """Take the interval that the server has told, if it has (``intervalFrom``), and go on."""
        keep_alive = self._keep_alive
        if keep_alive is not None and keep_alive.interval_name is not None:
            name, attempt = keep_alive.interval_name, self._attempt
            value = attempt.memory.get(name, attempt.renewed.get(name))
            if value is not None and value != self._told_interval:
                self._told_interval = value
                self._clocks.told(value)
        self.set_alarm()

    def set_alarm(self) -> None:
        """Be called when something is due."""
        if not self._looks_again and not self._stopped:
            self._host.redials.alarm(self, self._clocks.due_at)

    def stop(self) -> None:
        """The socket has ended."""
        self._stopped = True
        self._host.redials.cancel(self)

    def due(self, now: float) -> None:
        """The alarm has come (`host.Redialler`). What has come by now is read first: a judge that is late blames nobody."""
        if not self._looks_again:
            self._looks_again = True
            self._host.redials.alarm(self, now + PASS_S)
            return
        self._looks_again = False
        while not self._stopped:
            match self._clocks.check(now):
                case Beat():
                    self._beat()
                case Dead(silent_s):
                    message = f"the server's program gave no sign of life for {silent_s:.1f} s (keepAlive)"
                    count(self._host.metrics.silences, f"keepAlive {self._end}")
                    count(self._host.metrics.keep_alives, "timeout")
                    self._dead(ErrCode.KEEPALIVE_TIMEOUT, message)
                    return
                case Silent(since):
                    options = self._connection.options
                    if options.when_silent == "reconnect":
                        count(self._host.metrics.silences, f"data {self._end}")
                        self._dead(ErrCode.SILENT, f"no message came for {options.data_timeout_s:g} s (dataTimeout)")
                        return
                    count(self._host.metrics.silences, "data report")
                    self._silent(since)
                case _:
                    break
        self.set_alarm()

    @property
    def _end(self) -> str:
        return "terminate" if self._connection.options.reconnect is None else "reconnect"

    def granted(self) -> None:
        """It asks for no turn (`host.Redialler`)."""

    def _beat(self) -> None:
        assert self._keep_alive is not None and self._keep_alive.send is not None, "the clock beats for it"
        filled = self._session.fill(self._keep_alive.send)
        if isinstance(filled, Unfilled):
            self._host.metrics.unanswered += 1
            if filled != self._unfilled:
                self._unfilled = filled
                log.warning("connection %d: keepAlive is not sent: %s", self._connection.id, filled)
        else:
            self._unfilled = None
            count(self._host.metrics.keep_alives, "sent")
            self._say(filled, self._keep_alive.send.binary)
