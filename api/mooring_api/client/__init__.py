"""The Python client of the REST API: async `Client` and blocking `BlockingClient`."""

from mooring_api.client.async_client import (
    ApiError,
    Client,
    ConnectionPage,
    Event,
    Page,
    ServiceAway,
    default_state_dir,
)
from mooring_api.client.blocking_client import BlockingClient

__all__ = [
    "ApiError",
    "BlockingClient",
    "Client",
    "ConnectionPage",
    "Event",
    "Page",
    "ServiceAway",
    "default_state_dir",
]
