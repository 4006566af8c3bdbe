"""TLS contexts, made once for all dials that ask for the same, and again when a file of them was exchanged."""

from __future__ import annotations

import os
import ssl

from mooring.dial_options import TlsRequest
from mooring.errors import ErrCode
from mooring.wire.failure import failed, refused_by_policy
from mooring.wire.threads import Threads

_MOST_CONTEXTS = 64
_Stamps = tuple[tuple[int, int, int] | None, ...]


class TlsContexts:
    """The contexts of one dialler.

    Args:
        threads: Where files are read: certificate stores take tens of milliseconds, a network's disk may take for ever.
        allow_insecure: Whether ``verify`` may be false.
    """

    def __init__(self, threads: Threads, *, allow_insecure: bool) -> None:
        self._threads = threads
        self._allow_insecure = allow_insecure
        self._contexts: dict[tuple[TlsRequest, _Stamps], ssl.SSLContext] = {}

    async def get(self, request: TlsRequest) -> ssl.SSLContext:
        """Return the context for `request`.

        Raises:
            DialFailed: If a file of it cannot be used, or the configuration does not let it do without verification.
        """
        if not request.verify and not self._allow_insecure:
            raise refused_by_policy("tls.verify false is refused: [egress] allow_insecure_tls is not set")
        key = (request, _stamps(request))
        context = self._contexts.get(key)
        if context is None:
            try:
                context = await self._threads.run(key, lambda: _make(request))
            except (OSError, ValueError) as exc:
                raise failed(ErrCode.TLS_FAILED, f"the TLS files cannot be used: {exc}") from None
            if len(self._contexts) >= _MOST_CONTEXTS:
                self._contexts.clear()
            self._contexts[key] = context
        return context


def _stamps(request: TlsRequest) -> _Stamps:
    """Return what tells that a file was exchanged: certificates are renewed while workers live for months."""
    found: list[tuple[int, int, int] | None] = []
    for path in (request.ca_file, request.cert_file, request.key_file):
        try:
            stat = None if path is None else os.stat(path)
        except OSError:
            stat = None
        found.append(None if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)


def _make(request: TlsRequest) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=request.ca_file)
    context.set_alpn_protocols(["http/1.1"])  # some balancers choose by it, and refuse who offers nothing
    if request.cert_file is not None:
        # An encrypted key must fail here, not ask for its password on a terminal.
        context.load_cert_chain(request.cert_file, request.key_file, password="")
    if not request.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
