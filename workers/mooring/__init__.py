"""What user code imports, and what a worker process is made of: ``from mooring import WebSocket``.

The connection model is 4D's ``4D.WebSocket`` class; `call_worker` and `kill_worker` are 4D's ``CALL WORKER`` and
``KILL WORKER``.
"""

from mooring.errors import (
    ConnectError,
    ConnectionClosed,
    ErrCode,
    ErrorEntry,
    HandlerError,
    InvalidRequest,
    MooringError,
    SendError,
    WrongState,
)
from mooring.events import ErrorEvent, MessageEvent, OpenEvent, TerminateEvent
from mooring.usercode.current import call_worker, kill_worker
from mooring.usercode.websocket import WebSocket
from mooring.version import __version__

__all__ = [
    "ConnectError",
    "ConnectionClosed",
    "ErrCode",
    "ErrorEntry",
    "ErrorEvent",
    "HandlerError",
    "InvalidRequest",
    "MessageEvent",
    "MooringError",
    "OpenEvent",
    "SendError",
    "TerminateEvent",
    "WebSocket",
    "WrongState",
    "__version__",
    "call_worker",
    "kill_worker",
]
