"""From a create request to what its connection runs with: the handler's attributes merged in, and all of it checked.

Every floor asks here, so that what the API takes, the worker can run.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import UNSET, UnsetType

from mooring import handler_options
from mooring.connection.requests import Protocol, compile_requests
from mooring.errors import Invalid, InvalidRequest
from mooring.kept_options import RequestsRequest
from mooring.link.record import AskedCreated
from mooring.options import ConnectionOptions, ConnectionRequest, check_request


def resolve(request: ConnectionRequest, handler: object | None = None) -> ConnectionOptions:
    """Merge `request` with the attributes of `handler`, and check the result.

    Raises:
        InvalidRequest: If anything is not valid.
    """
    options = handler_options.resolve(request, handler)
    wrong = _check_requests(options.requests, options.data_type)
    if wrong:
        raise InvalidRequest([handler_options.blame_handler(error, request, handler) for error in wrong])
    return options


def check_asked(request: ConnectionRequest) -> list[Invalid]:
    """Return everything that is wrong with `request`, as far as it can be told without its handler."""
    asked = None if isinstance(request.requests, UnsetType) else request.requests
    return check_request(request) or _check_requests(asked, "text" if request.data_type is UNSET else request.data_type)


def _check_requests(asked: str | RequestsRequest | None, data_type: str | UnsetType) -> list[Invalid]:
    wrong: list[Invalid] = []
    if asked is not None:
        compile_requests(asked, "/requests", wrong)
        if data_type == "blob":
            wrong.append(Invalid("/requests", 'look into JSON, and the data type is "blob"'))
    return wrong


def requests_of(options: ConnectionOptions) -> Protocol | None:
    """Return what the ``requests`` of `options`, which were checked, mean."""
    return None if options.requests is None else _compiled(msgspec.json.encode(options.requests))


_decode = msgspec.json.Decoder(str | RequestsRequest).decode


@lru_cache(maxsize=256)  # ten thousand connections of one kind share one
def _compiled(asked: bytes) -> Protocol | None:
    return compile_requests(_decode(asked), "/requests", [])


def shown_of(options: ConnectionOptions) -> AskedCreated | None:
    """Return what the record shows of `options`; None: they are about the socket alone."""
    return None if options.requests is None else AskedCreated(requests=msgspec.to_builtins(options.requests))
