"""What user code imports, and what a worker process is made of: ``from mooring import WebSocket``.

The connection model is 4D's ``4D.WebSocket`` class; `call_worker` and `kill_worker` are 4D's ``CALL WORKER`` and
``KILL WORKER``.

What runs only in a worker is imported when it is first asked for: the command line and the service read leaves of this
package, and need neither aiohttp's client nor TLS for that.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mooring.errors import (
    ConnectError,
    ConnectionClosed,
    ErrCode,
    ErrorEntry,
    HandlerError,
    InvalidRequest,
    MooringError,
    NotKept,
    SendError,
    WrongState,
)
from mooring.events import ErrorEvent, MessageEvent, OpenEvent, TerminateEvent
from mooring.kept_events import DisconnectEvent, ReconnectEvent, UnsentEvent
from mooring.send_errors import IdInUse, NoRequests, PeerError, QueueFull, ReplyLost, ReplyTimeout
from mooring.version import __version__

if TYPE_CHECKING:
    from mooring.usercode.current import call_worker, kill_worker
    from mooring.usercode.websocket import WebSocket

__all__ = [
    "ConnectError",
    "ConnectionClosed",
    "DisconnectEvent",
    "ErrCode",
    "ErrorEntry",
    "ErrorEvent",
    "HandlerError",
    "IdInUse",
    "InvalidRequest",
    "MessageEvent",
    "MooringError",
    "NoRequests",
    "NotKept",
    "OpenEvent",
    "PeerError",
    "QueueFull",
    "ReconnectEvent",
    "ReplyLost",
    "ReplyTimeout",
    "SendError",
    "TerminateEvent",
    "UnsentEvent",
    "WebSocket",
    "WrongState",
    "__version__",
    "call_worker",
    "kill_worker",
]

_ASKED_FOR = {"WebSocket": "websocket", "call_worker": "current", "kill_worker": "current"}


def __getattr__(name: str) -> Any:
    if name not in _ASKED_FOR:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"mooring.usercode.{_ASKED_FOR[name]}"), name)
