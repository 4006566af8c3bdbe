"""The Python client of the REST API: async `Client` and blocking `BlockingClient`, which users import from here.

`transport` makes one request (over `session`, or `plain`), `connections workers events` have the verbs of a resource each, `async_client` is all of them;
`blocking_client` makes its own of those. It must not know `rest`: it speaks to a service of any version. Read transport first.
"""

from mooring_api.client.answers import ApiError, ConnectionPage, Event, Page, QueueRecord, Sent, ServiceAway
from mooring_api.client.async_client import Client
from mooring_api.client.blocking_client import BlockingClient
from mooring_api.client.transport import default_state_dir

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
