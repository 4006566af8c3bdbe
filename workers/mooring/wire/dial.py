"""The dial: from checked options to an open, upgraded transport, or to 4D's list of errors.

aiohttp makes the TCP connection, TLS and the HTTP exchange; this module decides on each address that is really dialled
(`egress.py`), follows no redirect, makes no second dial, and checks the server's answer as RFC 6455 section 4.1 asks,
which aiohttp's own WebSocket client does not do in full. The transport then leaves aiohttp: frames are ours.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import socket
import ssl
from contextvars import ContextVar
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mooring.errors import ConnectError, ErrCode, ErrorEntry
from mooring.options import ConnectionOptions, TlsRequest
from mooring.wire.egress import EgressPolicy
from mooring.wire.frames import Deflate

_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_READ_AHEAD_BYTES = 64 * 1024


class Dialled(msgspec.Struct, frozen=True):
    """An upgraded connection: `tail` came in the same packet as the 101, `keep` must live as long as `transport`
    (aiohttp closes a transport whose response is collected)."""

    transport: asyncio.Transport
    tail: bytes
    protocol: str | None
    deflate: Deflate | None
    keep: Any


class DialFailed(ConnectError):
    """A dial that failed; `timed_out` and `policy` say which answer it deserves."""

    def __init__(self, errors: list[ErrorEntry], *, timed_out: bool = False, policy: bool = False) -> None:
        super().__init__(errors)
        self.timed_out = timed_out
        self.policy = policy


class _PolicyError(OSError):
    """Raised inside aiohttp's connector: it treats an OSError as an address that does not answer."""


class _Target:
    """What one dial is for; found by the socket factory through `_target`."""

    __slots__ = ("dialled", "host", "port", "refusal")

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.refusal: str | None = None
        self.dialled = False


_target: ContextVar[_Target] = ContextVar("mooring_dial_target")


class _TailCollector:
    """Stands in for aiohttp's frame reader just long enough to be handed what followed the 101."""

    def __init__(self) -> None:
        self.tail = b""

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.tail += data
        return False, b""

    def feed_eof(self) -> None:
        pass


class Dialler:
    """Dials for one worker. One aiohttp session serves all dials: no cookies, no proxies, no netrc, no reuse.

    Must be made and closed on the I/O loop.
    """

    def __init__(self, policy: EgressPolicy, *, allow_insecure_tls: bool = False) -> None:
        self._policy = policy
        self._allow_insecure_tls = allow_insecure_tls
        self._tls_contexts: dict[tuple[TlsRequest, _Stamps], ssl.SSLContext] = {}
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_start.append(_refuse_second_dial)
        resolver = aiohttp.ThreadedResolver()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=0, force_close=True, use_dns_cache=False, resolver=resolver, socket_factory=self._make_socket
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None),
            trace_configs=[trace],
            skip_auto_headers=("Accept-Encoding", "Accept", "User-Agent"),
        )

    def set_policy(self, policy: EgressPolicy, *, allow_insecure_tls: bool) -> None:
        """Decide by another policy from now on."""
        self._policy = policy
        self._allow_insecure_tls = allow_insecure_tls
        self._tls_contexts.clear()

    async def close(self) -> None:
        """Release everything."""
        await self._session.close()

    async def dial(self, options: ConnectionOptions) -> Dialled:
        """Dial once (per address tried) and upgrade, within ``connectTimeout``.

        Raises:
            DialFailed: With 4D's list of errors, outermost first. No text of it holds the URL's query or a header.
        """
        parts = urlsplit(options.url)
        secure = parts.scheme == "wss"
        port = parts.port or (443 if secure else 80)
        place = f"{parts.hostname}:{port}"
        try:
            # The text that was passed goes on the wire as it is: "encoded" keeps yarl from re-spelling it.
            url = URL(options.url, encoded=options.url.isascii())
        except ValueError:
            raise _failed(ErrCode.NAME_NOT_RESOLVED, f"{place} is not a host that can be dialled") from None
        # As it is dialled: many spellings in Unicode are the same name (RFC 5895), and the policy must see that one.
        target = _Target(url.raw_host or "", port)
        token = _target.set(target)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                context = await self._tls(options.tls) if secure else None
                return await self._upgrade(options, url, place, context)
        except TimeoutError:
            raise _failed(
                ErrCode.CONNECT_TIMEOUT,
                f"{place} did not complete the handshake within {options.connect_timeout_s:g} s",
                timed_out=True,
            ) from None
        except DialFailed:
            raise
        except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError) as exc:
            if target.refusal is not None:
                raise _failed(ErrCode.POLICY_REFUSED, target.refusal, policy=True) from None
            raise _explain(exc, place, secure=secure) from None
        finally:
            _target.reset(token)

    async def _upgrade(
        self, options: ConnectionOptions, url: URL, place: str, context: ssl.SSLContext | None
    ) -> Dialled:
        key = base64.b64encode(os.urandom(16))
        headers: CIMultiDict[str] = CIMultiDict()
        headers["Connection"] = "Upgrade"
        headers["Upgrade"] = "websocket"
        headers["Sec-WebSocket-Version"] = "13"
        headers["Sec-WebSocket-Key"] = key.decode()
        if options.protocols:
            headers["Sec-WebSocket-Protocol"] = ", ".join(options.protocols)
        if options.compress:
            headers["Sec-WebSocket-Extensions"] = "permessage-deflate; client_max_window_bits"
        for name, value in options.headers:
            headers.add(name, value)
        response = await self._session.request(
            "GET",
            url.with_scheme("https" if context else "http"),
            headers=headers,
            allow_redirects=False,
            ssl=context if context else True,
            read_bufsize=_READ_AHEAD_BYTES,
        )
        try:
            protocol, deflate = _check_answer(response.status, response.headers, key, options, place)
            connection = response.connection
            if connection is None or connection.transport is None or connection.protocol is None:
                raise _failed(ErrCode.HANDSHAKE_INVALID, f"{place} closed the connection during the handshake")
            collector = _TailCollector()
            connection.protocol.set_parser(collector, None)
            return Dialled(connection.transport, collector.tail, protocol, deflate, response)
        except BaseException:
            response.close()
            raise

    def _make_socket(self, address_info: tuple[Any, ...]) -> socket.socket:
        family, kind, protocol, _, address = address_info
        target = _target.get()
        refusal = self._policy.refusal(target.host, target.port, address[0])
        if refusal is not None:
            target.refusal = refusal
            raise _PolicyError(refusal)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    async def _tls(self, request: TlsRequest) -> ssl.SSLContext:
        key = (request, _stamps(request))
        context = self._tls_contexts.get(key)
        if context is None:
            if not request.verify and not self._allow_insecure_tls:
                raise _failed(
                    ErrCode.POLICY_REFUSED,
                    "tls.verify false is refused: [egress] allow_insecure_tls is not set",
                    policy=True,
                )
            try:
                # Reads files: certificate stores take tens of milliseconds.
                context = await asyncio.to_thread(_make_tls_context, request)
            except (OSError, ssl.SSLError, ValueError) as exc:
                raise _failed(ErrCode.TLS_FAILED, f"the TLS files cannot be used: {exc}") from None
            if len(self._tls_contexts) >= 64:
                self._tls_contexts.clear()
            self._tls_contexts[key] = context
        return context


async def _refuse_second_dial(
    session: aiohttp.ClientSession, context: Any, params: aiohttp.TraceConnectionCreateStartParams
) -> None:
    # aiohttp repeats an idempotent request after a reset: one `new` is one dial (contract, section 2).
    target = _target.get()
    if target.dialled:
        raise _SecondDial
    target.dialled = True


class _SecondDial(ConnectionError):
    """The server closed the connection during the handshake, and aiohttp was about to dial again."""


_Stamps = tuple[tuple[int, int, int] | None, ...]


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


def _make_tls_context(request: TlsRequest) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=request.ca_file)
    if request.cert_file is not None:
        # An encrypted key must fail here, not ask for its password on a terminal.
        context.load_cert_chain(request.cert_file, request.key_file, password="")
    if not request.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _failed(
    code: ErrCode, message: str, *, timed_out: bool = False, policy: bool = False, cause: str = ""
) -> DialFailed:
    errors = [ErrorEntry(code, message)]
    if cause:
        errors.append(ErrorEntry(code, cause))
    return DialFailed(errors, timed_out=timed_out, policy=policy)


def _explain(exc: Exception, place: str, *, secure: bool) -> DialFailed:
    """Turn what aiohttp raised into 4D's errors. URLs in its texts hold queries, so only chosen parts are passed on."""
    match exc:
        case aiohttp.ClientConnectorDNSError():
            return _failed(ErrCode.NAME_NOT_RESOLVED, f"the host name of {place} could not be resolved")
        case aiohttp.ClientConnectorCertificateError():
            return _failed(
                ErrCode.TLS_FAILED, f"the certificate of {place} was not accepted", cause=str(exc.certificate_error)
            )
        case aiohttp.ClientSSLError():
            return _failed(ErrCode.TLS_FAILED, f"the TLS handshake with {place} failed", cause=_os_text(exc.os_error))
        case aiohttp.ClientConnectorError():
            cause = exc.os_error
            if isinstance(cause, ConnectionRefusedError):
                return _failed(ErrCode.REFUSED, f"{place} refused the connection", cause=_os_text(cause))
            if isinstance(cause, ssl.SSLError) or (secure and isinstance(cause, ConnectionResetError)):
                return _failed(ErrCode.TLS_FAILED, f"the TLS handshake with {place} failed", cause=_os_text(cause))
            return _failed(ErrCode.UNREACHABLE, f"no connection to {place} could be made", cause=_os_text(cause))
        case aiohttp.InvalidURL() | UnicodeError():  # a label that is too long, or no name at all
            return _failed(ErrCode.NAME_NOT_RESOLVED, f"{place} is not a host that can be dialled")
        case aiohttp.ServerDisconnectedError() | _SecondDial() | ConnectionError():
            return _failed(ErrCode.HANDSHAKE_INVALID, f"{place} closed the connection during the handshake")
        case aiohttp.ClientResponseError() | HttpProcessingError() | aiohttp.ClientPayloadError():
            return _failed(ErrCode.HANDSHAKE_INVALID, f"{place} did not answer the handshake with valid HTTP")
        case ssl.SSLError():
            return _failed(ErrCode.TLS_FAILED, f"the TLS handshake with {place} failed", cause=_os_text(exc))
        case aiohttp.ClientOSError():  # the TCP connection had been made: it was cut
            return _failed(ErrCode.HANDSHAKE_INVALID, f"{place} closed the connection during the handshake")
        case OSError():
            return _failed(ErrCode.UNREACHABLE, f"no connection to {place} could be made", cause=_os_text(exc))
        case _:
            return _failed(
                ErrCode.UNREACHABLE, f"no connection to {place} could be made", cause=f"{type(exc).__name__}"
            )


def _os_text(exc: OSError | None) -> str:
    if exc is None:
        return ""
    return exc.strerror or type(exc).__name__


def _check_answer(
    status: int, headers: CIMultiDictProxy[str], key: bytes, options: ConnectionOptions, place: str
) -> tuple[str | None, Deflate | None]:
    """Hold the server's answer against RFC 6455 section 4.1; return the subprotocol and what was negotiated."""

    def invalid(detail: str) -> DialFailed:
        return _failed(ErrCode.HANDSHAKE_INVALID, f"{place} broke the handshake: {detail}")

    if 300 <= status < 400:
        raise _failed(ErrCode.REDIRECT_REFUSED, f"{place} answered the handshake with a redirect (status {status})")
    if status != 101:
        raise _failed(ErrCode.HANDSHAKE_STATUS, f"{place} answered the handshake with status {status}")
    if headers.get("Upgrade", "").strip().lower() != "websocket":
        raise invalid("no 'Upgrade: websocket'")
    if "upgrade" not in (part.strip().lower() for part in ",".join(headers.getall("Connection", ())).split(",")):
        raise invalid("no 'Connection: Upgrade'")
    accept = base64.b64encode(hashlib.sha1(key + _ACCEPT_GUID, usedforsecurity=False).digest()).decode()
    if [value.strip() for value in headers.getall("Sec-WebSocket-Accept", ())] != [accept]:
        raise invalid("a missing or wrong Sec-WebSocket-Accept")
    protocols = headers.getall("Sec-WebSocket-Protocol", [])
    protocol = protocols[0].strip() if protocols else None
    if len(protocols) > 1 or (protocol is not None and protocol not in options.protocols):
        raise invalid("a subprotocol that was not offered")
    extensions = ",".join(headers.getall("Sec-WebSocket-Extensions", [])).strip()
    if not extensions:
        return protocol, None
    if not options.compress:
        raise invalid("an extension that was not offered")
    deflate = parse_deflate(extensions)
    if deflate is None:
        raise invalid("an extension that was not offered, or malformed parameters of permessage-deflate")
    return protocol, deflate


def parse_deflate(text: str) -> Deflate | None:
    """Return what a ``Sec-WebSocket-Extensions`` answer to our offer means; None if it breaks RFC 7692 section 7.1."""
    name, *params = (part.strip() for part in text.split(";"))
    if name.lower() != "permessage-deflate":
        return None
    seen: dict[str, str | None] = {}
    for param in params:
        key, equals, value = (part.strip() for part in param.partition("="))
        if key in seen:
            return None
        seen[key] = value.strip('"') if equals else None
    bits = {"server_max_window_bits": 15, "client_max_window_bits": 15}
    for key, given in seen.items():
        match key:
            case "server_no_context_takeover" | "client_no_context_takeover":
                if given is not None:
                    return None
            case "server_max_window_bits" | "client_max_window_bits":
                # zlib cannot compress raw data with a window of 256 bytes: 8 is refused where we would have to.
                lowest = 8 if key == "server_max_window_bits" else 9
                if given is None or not (given.isascii() and given.isdigit() and given == str(int(given))):
                    return None
                if not lowest <= int(given) <= 15:
                    return None
                bits[key] = int(given)
            case _:
                return None
    return Deflate("server_no_context_takeover" in seen, "client_no_context_takeover" in seen, **bits)
