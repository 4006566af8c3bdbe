"""What is said to a proxy, and what its answers mean: HTTP CONNECT, SOCKS5. Pure: bytes in, bytes out.

A tunnel is driven so: send `begin()`; feed what comes to `feed` and send what it returns, until `is_open`. How the
answer was cut into pieces changes nothing. A proxy speaks only when it was spoken to, so bytes behind the last answer
are an error: they would be taken for the server's.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Generator
from http import HTTPStatus
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Protocol

from mooring.errors import ErrCode
from mooring.version import __version__

MAX_HEAD_BYTES = 16 * 1024
MAX_HEAD_LINES = 100

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n\0]*)?\Z")
_HEADER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n\0]*\Z")  # RFC 9110 section 5.1
_AUTH_FAILED = {401, 407}  # tinyproxy answers 401
_TARGET_UNREACHABLE = {502, 503, 504}


class ProxyError(Exception):
    """The proxy does not connect us.

    Attributes:
        code: The ``errCode``.
        detail: What it answered, in words; without a credential.
    """

    def __init__(self, code: ErrCode, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Tunnel(Protocol):
    """One conversation with a proxy, up to the moment when its connection is ours."""

    is_open: bool

    def begin(self) -> bytes:
        """Return what is sent first."""
        ...

    def feed(self, data: bytes) -> bytes:
        """Take what came; return what is sent next, perhaps nothing.

        Raises:
            ProxyError: If it does not connect us, or says what it must not.
        """
        ...


class HttpConnect:
    """``CONNECT host:port`` (RFC 9110 section 9.3.6). Any 2xx opens; what frames a body there is to be ignored."""

    def __init__(self, host: str, port: int, username: str | None = None, password: str | None = None) -> None:
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}", f"User-Agent: mooring/{__version__}"]
        if username is not None:
            credentials = base64.b64encode(f"{username}:{password or ''}".encode()).decode()
            lines.append(f"Proxy-Authorization: Basic {credentials}")
        self._request = "\r\n".join([*lines, "", ""]).encode("ascii")
        self._port = port
        self._line = b""
        self._size = 0
        self._lines = 0
        self._status = 0
        self.is_open = False

    def begin(self) -> bytes:
        """Return the request."""
        return self._request

    def feed(self, data: bytes) -> bytes:
        """Take what came."""
        while data:
            if self.is_open:
                raise ProxyError(ErrCode.PROXY_INVALID, "it sent bytes behind its answer")
            piece, newline, data = data.partition(b"\n")
            self._line += piece
            self._size += len(piece) + len(newline)
            if not self._status and not b"HTTP/".startswith(self._line[:5]):
                raise ProxyError(ErrCode.PROXY_INVALID, "it does not answer with HTTP")
            if self._size > MAX_HEAD_BYTES:
                raise ProxyError(ErrCode.PROXY_INVALID, f"its answer's head is longer than {MAX_HEAD_BYTES} bytes")
            if newline:
                line, self._line = self._line.removesuffix(b"\r"), b""
                self._take(line)
        return b""

    def _take(self, line: bytes) -> None:
        self._lines += 1
        if self._lines > MAX_HEAD_LINES:
            raise ProxyError(ErrCode.PROXY_INVALID, f"its answer's head has more than {MAX_HEAD_LINES} lines")
        if not self._status:
            found = _STATUS_LINE.match(line)
            if found is None:
                raise ProxyError(ErrCode.PROXY_INVALID, "it does not answer with HTTP/1")
            self._status = int(found[1])
        elif line:
            if not _HEADER.match(line):
                raise ProxyError(ErrCode.PROXY_INVALID, "its answer has a malformed header")
        elif 100 <= self._status <= 199 and self._status != 101:
            self._status = 0  # an interim answer: the real one follows
        elif 200 <= self._status <= 299:
            self.is_open = True
        else:
            raise self._refusal(self._status)

    def _refusal(self, status: int) -> ProxyError:
        text = f"it answered CONNECT with status {_named(status)}"
        if status in _AUTH_FAILED:
            return ProxyError(ErrCode.PROXY_AUTH_FAILED, text)
        if status in _TARGET_UNREACHABLE:
            return ProxyError(ErrCode.UNREACHABLE, text)
        if status == HTTPStatus.FORBIDDEN and self._port != 443:
            text += f"; many proxies allow CONNECT to port 443 only, this was port {self._port}"
        return ProxyError(ErrCode.PROXY_REFUSED, text)


def _named(status: int) -> str:
    # The standard's words: the proxy's own may repeat what we sent.
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


_SOCKS_REPLIES = {
    1: (ErrCode.PROXY_REFUSED, "general failure"),
    2: (ErrCode.PROXY_REFUSED, "not allowed by its rules"),
    3: (ErrCode.UNREACHABLE, "network unreachable"),
    4: (ErrCode.UNREACHABLE, "host unreachable"),
    5: (ErrCode.REFUSED, "connection refused"),
    6: (ErrCode.UNREACHABLE, "TTL expired"),
    7: (ErrCode.PROXY_INVALID, "command not supported"),
    8: (ErrCode.PROXY_INVALID, "kind of address not supported"),
}
_NO_AUTHENTICATION, _PASSWORD, _NO_METHOD = 0, 2, 0xFF
_BIND_ADDRESS_BYTES = {1: 4, 4: 16}

_Steps = Generator[tuple[bytes, int], bytes, None]  # yields what to send and how many bytes to wait for


class Socks5:
    """SOCKS5 (RFC 1928), with user name and password (RFC 1929) where the proxy asks for them."""

    def __init__(self, host: str, port: int, username: str | None = None, password: str | None = None) -> None:
        self._steps = _socks5(_socks_address(host) + port.to_bytes(2, "big"), username, password)
        self._received = b""
        self._wanted = 0
        self.is_open = False

    def begin(self) -> bytes:
        """Return the greeting."""
        sent, self._wanted = next(self._steps)
        return sent

    def feed(self, data: bytes) -> bytes:
        """Take what came."""
        self._received += data
        sent = b""
        while not self.is_open and len(self._received) >= self._wanted:
            piece, self._received = self._received[: self._wanted], self._received[self._wanted :]
            try:
                more, self._wanted = self._steps.send(piece)
            except StopIteration:
                self.is_open = True
            else:
                sent += more
        if self.is_open and self._received:
            raise ProxyError(ErrCode.PROXY_INVALID, "it sent bytes behind its answer")
        return sent


def _socks_address(host: str) -> bytes:
    try:
        match ip_address(host):
            case IPv4Address() as address:
                return b"\x01" + address.packed
            case IPv6Address() as address:
                return b"\x04" + address.packed
    except ValueError:
        pass
    return b"\x03" + _short(host.encode("ascii"))


def _short(data: bytes) -> bytes:
    return bytes((len(data),)) + data


def _socks5(target: bytes, username: str | None, password: str | None) -> _Steps:
    methods = [_NO_AUTHENTICATION] if username is None else [_NO_AUTHENTICATION, _PASSWORD]
    version, method = yield b"\x05" + _short(bytes(methods)), 2
    if version != 5:
        raise ProxyError(ErrCode.PROXY_INVALID, "it does not answer with SOCKS5")
    if method == _NO_METHOD:
        detail = "it wants credentials" if username is None else "it accepts neither credentials nor none"
        raise ProxyError(ErrCode.PROXY_AUTH_FAILED, detail)
    if method not in methods:
        raise ProxyError(ErrCode.PROXY_INVALID, "it chose a way to log in that was not offered")
    if method == _PASSWORD:
        credentials = _short((username or "").encode()) + _short((password or "").encode())
        version, status = yield b"\x01" + credentials, 2
        if version != 1:
            raise ProxyError(ErrCode.PROXY_INVALID, "it breaks RFC 1929")
        if status:
            raise ProxyError(ErrCode.PROXY_AUTH_FAILED, "it did not accept the credentials")
    version, reply = yield b"\x05\x01\x00" + target, 2
    if version != 5:
        raise ProxyError(ErrCode.PROXY_INVALID, "it does not answer with SOCKS5")
    if reply:
        code, text = _SOCKS_REPLIES.get(reply, (ErrCode.PROXY_INVALID, "which has no meaning"))
        raise ProxyError(code, f"it answered with reply {reply}: {text}")
    _, kind = yield b"", 2
    if kind == 3:
        (length,) = yield b"", 1
    elif kind in _BIND_ADDRESS_BYTES:
        length = _BIND_ADDRESS_BYTES[kind]
    else:
        raise ProxyError(ErrCode.PROXY_INVALID, "its answer names no kind of address")
    yield b"", length + 2
