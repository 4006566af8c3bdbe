"""One request by the standard library: for programs that make a few and end, such as the command line.

An HTTP library takes longer to import than such a request to answer.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from typing import Any
from urllib.parse import urlencode, urlsplit

from mooring_api.client.answers import NotReached

CONNECT_S = 5.0


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def request(
    base: str,
    method: str,
    path: str,
    *,
    body: bytes | None,
    headers: dict[str, str],
    params: dict[str, str] | None,
    context: Any,
) -> tuple[int, bytes]:
    """Make one request on a connection of its own; return status and body.

    Args:
        base: ``http://…``, ``https://…`` or ``unix:PATH``.
        context: For TLS: an `ssl.SSLContext`, True for the default one, False for one that checks nothing.

    Raises:
        NotReached: If nobody took it.
        OSError: If there is no answer.
        ValueError: If no header can carry the token.
    """
    connection = _connection(base, context)
    full = (
        ("" if base.startswith("unix:") else urlsplit(base).path) + path + (f"?{urlencode(params)}" if params else "")
    )
    try:
        with contextlib.closing(connection):
            try:
                connection.connect()
            except OSError as exc:
                raise NotReached(exc.strerror or str(exc)) from None
            connection.sock.settimeout(None)  # how long an answer takes is the service's affair, and Ctrl-C the user's
            connection.request(method, full, body, headers)
            response = connection.getresponse()
            return response.status, response.read()
    except http.client.HTTPException as exc:
        raise OSError(str(exc) or type(exc).__name__) from None


def _connection(base: str, context: Any) -> http.client.HTTPConnection:
    if base.startswith("unix:"):
        return _UnixConnection(base.removeprefix("unix:"))
    parts = urlsplit(base)
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=CONNECT_S)
    if context is True:
        context = ssl.create_default_context()
    elif context is False:
        context = ssl._create_unverified_context()  # asked for
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=CONNECT_S, context=context)
