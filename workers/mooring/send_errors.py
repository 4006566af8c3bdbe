"""What goes wrong with what is sent, and with requests over a connection. Part of the tree of `errors`."""

from __future__ import annotations

from typing import Any

from mooring.errors import MooringError, RequestError, SendError


class SendTimeout(SendError):
    """A message that has waited behind the queue for ``sendTimeout``, and was taken out."""

    def __str__(self) -> str:
        return (
            f"the message has waited behind the queue of connection {self.connection} for sendTimeout, and is not sent"
        )


class SendUncertain(MooringError):
    """The socket has ended while messages were written: they may have arrived, and are not sent again.

    Attributes:
        sent: How many of them were sent for certain, the first ones.
        uncertain: How many may have been.
    """

    def __init__(self, connection: int, sent: int = 0, uncertain: int = 1) -> None:
        self.connection = connection
        self.sent = sent
        self.uncertain = uncertain

    def __str__(self) -> str:
        return f"the socket of connection {self.connection} has ended while the message was written"


class QueueFull(MooringError):
    """There is no room for a message to wait until the connection is ready."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"the queue of connection {self.connection} is full (worker.outbound_bytes)"


class NoRequests(RequestError):
    """The connection was opened without ``requests``: nobody knows where a reply has its id."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"connection {self.connection} was opened without requests"


class IdInUse(RequestError):
    """A request with this id is pending on the connection."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"a request of this id is pending on connection {self.connection}"


class ReplyTimeout(MooringError):
    """No reply has come in time. The request was sent, and may have been done."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"no reply has come over connection {self.connection} in time"


class ReplyLost(MooringError):
    """The socket has ended before the reply came. The request was sent, and may have been done."""

    def __init__(self, connection: int) -> None:
        self.connection = connection

    def __str__(self) -> str:
        return f"the socket of connection {self.connection} has ended before the reply came"


class PeerError(MooringError):
    """The reply is an error of the peer.

    Attributes:
        reply: The whole message: in a worker its value, in the service its JSON text.
    """

    def __init__(self, connection: int, reply: Any) -> None:
        self.connection = connection
        self.reply = reply

    def __str__(self) -> str:
        return f"the peer of connection {self.connection} has answered with an error"
