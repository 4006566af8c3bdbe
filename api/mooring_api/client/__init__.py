"""The Python client of the REST API: async `Client` and blocking `BlockingClient`, which users import from here.

`transport` makes one request (over `session`, or `plain`), `connections workers events` have the verbs of a resource each, `async_client` is all of them;
`blocking_client` makes its own of those, and is imported when it is first asked for. It must not know `rest`: it speaks to a service of any version. Read transport first.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mooring_api.client.answers import ApiError, ConnectionPage, Event, Page, QueueRecord, Sent, ServiceAway
from mooring_api.client.async_client import Client
from mooring_api.client.transport import default_state_dir

if TYPE_CHECKING:
    from mooring_api.client.blocking_client import BlockingClient

__all__ = [
    "ApiError",
    "BlockingClient",
    "Client",
    "ConnectionPage",
    "Event",
    "Page",
    "QueueRecord",
    "Sent",
    "ServiceAway",
    "default_state_dir",
]


def __getattr__(name: str) -> Any:
    if name != "BlockingClient":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("mooring_api.client.blocking_client").BlockingClient
