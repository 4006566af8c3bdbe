"""Who may come in: token, Host, Origin, scope. One decision per request, before any handler."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aiohttp import web

from mooring import private_files
from mooring_api.rest.problems import Problem
from mooring_service.config import Scope, TokenConfig

MAX_TOKEN_CHARS = 512
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 16, 65_536
_OF_THIS_MACHINE = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?\Z")
_PLAIN_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}\Z")
ALL_SCOPES: frozenset[Scope] = frozenset(("read", "send", "manage"))


class TokenFileError(Exception):
    """The token file cannot be trusted or made."""


def load_token(state_dir: Path) -> str:
    """Return the token of a state directory; it is made at first use, mode 0600.

    Raises:
        TokenFileError: If the file is a link, belongs to another user, or can be read by others.
    """
    path = state_dir / "token"
    if os.path.lexists(path):
        return read_token(state_dir, os.getuid())
    token = secrets.token_urlsafe(32)
    try:
        # Whole from the first moment: another process may make it, or read it, at the same time.
        fd, made = tempfile.mkstemp(dir=state_dir, prefix=".token-")
        try:
            with os.fdopen(fd, "w") as file:
                file.write(token + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(made, path)
        finally:
            os.unlink(made)
        private_files.sync_folder(state_dir)
    except FileExistsError:
        return read_token(state_dir, os.getuid())
    except OSError as exc:
        raise TokenFileError(f"{path}: cannot be made: {exc.strerror}") from None
    return token


def derived_token(secret_file: str) -> str:
    """Return the token that the nodes of a cluster share: each makes the same one of the same secret.

    Raises:
        TokenFileError: If the file cannot be read, can be read by others, or holds too little.
    """
    try:
        with open(secret_file, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(MAX_SECRET_BYTES).strip()
    except OSError as exc:
        raise TokenFileError(f"cluster.secret_file: {secret_file}: {exc.strerror}") from None
    if mode & 0o077:
        raise TokenFileError(
            f"cluster.secret_file: {secret_file} can be read by others (mode {mode & 0o777:o}); it must be 600"
        )
    if len(secret) < MIN_SECRET_BYTES:
        raise TokenFileError(
            f"cluster.secret_file: {secret_file} holds fewer than {MIN_SECRET_BYTES} bytes: openssl rand -hex 32"
        )
    digest = hmac.digest(secret, b"api-token/1", "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def read_token(state_dir: Path, owner: int) -> str:
    """Return the token of a state directory that belongs to the user id `owner`.

    Raises:
        TokenFileError: As `load_token`, or if there is none.
    """
    path = state_dir / "token"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise TokenFileError(f"{path}: cannot be read: {exc.strerror}") from None
    with os.fdopen(fd) as file:
        status = os.fstat(file.fileno())
        if status.st_uid != owner:
            raise TokenFileError(f"{path}: belongs to another user")
        if status.st_mode & 0o077:
            raise TokenFileError(f"{path}: can be read by others (mode {status.st_mode & 0o777:o}); it must be 600")
        token = file.read().strip()
    if not token:
        raise TokenFileError(f"{path}: is empty; remove it to have a new one made")
    return token


def token_hash(token: str) -> str:
    """Return what ``[tokens]`` of the configuration holds for a token."""
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


class Held(NamedTuple):
    """A request that lasts, and the scope that it needs."""

    request: web.BaseRequest
    scope: Scope


class Access:
    """The decision.

    Args:
        token: The one of the state directory; None asks for no token at all.
        named: Further tokens, as hashes.
        own: The Host names that we listen as, with port.
        configured: Further ones. A proxy in front may have TLS where we have none, so each is ours under both schemes.
        secure: Whether we speak TLS ourselves.
        unix: Whether we listen on a Unix socket. Its mode guards it, and no browser can open it; but somebody may lead a port to it
            (ssh -L, socat). So it answers to this machine's own names with any port, and to plain names without one: a page of
            another site, also one whose name was rebound, comes with neither.
    """

    def __init__(
        self,
        token: str | None,
        named: Mapping[str, TokenConfig],
        own: frozenset[str],
        configured: Iterable[str] = (),
        *,
        secure: bool = False,
        unix: bool = False,
    ) -> None:
        self._unix = unix
        self._required = token is not None
        self._token = token
        further = frozenset(name for host in configured for name in _as_browsers_say(host.lower()))
        self.hosts = own | further
        scheme = "https" if secure else "http"
        self._origins = frozenset(
            (
                *(f"{scheme}://{host}" for host in own),
                *(f"{any_}://{host}" for any_ in ("http", "https") for host in further),
            )
        )
        self._known: list[tuple[bytes, frozenset[Scope]]] = []
        self._held: dict[int, Held] = {}
        self.set_tokens(named)

    def set_tokens(self, named: Mapping[str, TokenConfig]) -> None:
        """Replace the named tokens (SIGHUP); what is under way with one that is gone is cut off."""
        self._known = []
        if self._token is not None:
            self._known.append((hashlib.sha256(self._token.encode()).digest(), ALL_SCOPES))
        for config in named.values():
            self._known.append((bytes.fromhex(config.hash.removeprefix("sha256:")), frozenset(config.scopes)))
        for held in list(self._held.values()):
            if held.scope not in (self.scopes(held.request) or ()) and held.request.transport is not None:
                held.request.transport.abort()

    @contextmanager
    def held(self, request: web.BaseRequest, scope: Scope) -> Iterator[None]:
        """While an answer, or a body, is under way that may last: it is cut off if its token is taken back meanwhile."""
        number = id(request)
        self._held[number] = Held(request, scope)
        try:
            yield
        finally:
            del self._held[number]

    def is_followed(self, transport: asyncio.BaseTransport) -> bool:
        """Say whether the answer that is under way on a transport may go on for ever: what is sent ends with its body."""
        return any(held.scope == "read" and held.request.transport is transport for held in self._held.values())

    def check_origin(self, request: web.BaseRequest) -> None:
        """Refuse what a page of another site makes a browser send, and names that rebinding made point here.

        Raises:
            Problem: 403.
        """
        headers = request.headers
        hosts = headers.getall("Host", [])
        if len(hosts) != 1 or not request.raw_path.startswith("/"):
            raise Problem("forbidden", "exactly one Host header and a path are required, no absolute URL")
        host = hosts[0].lower()
        if host not in self.hosts and not (self._unix and (_OF_THIS_MACHINE.match(host) or _PLAIN_NAME.match(host))):
            raise Problem("forbidden", "this Host is not one that mooring listens as; see [api] hosts")
        for origin in headers.getall("Origin", ()):
            led_here = self._unix and origin.lower() == f"http://{host}" and _OF_THIS_MACHINE.match(host)
            if origin.lower() not in self._origins and not led_here:
                raise Problem("forbidden", "requests of other origins are refused")
        for site in headers.getall("Sec-Fetch-Site", ()):
            if site.lower() not in ("same-origin", "none"):
                raise Problem("forbidden", "cross-site requests are refused")

    def scopes(self, request: web.BaseRequest) -> frozenset[Scope] | None:
        """Return what the request's token allows; None without a valid one."""
        if not self._required:
            return ALL_SCOPES
        values = request.headers.getall("Authorization", ())
        if len(values) != 1 or len(values[0]) > MAX_TOKEN_CHARS:
            return None
        kind, _, token = values[0].partition(" ")
        if kind.lower() != "bearer":
            return None
        # Hashes are compared, as bytes and in constant time; the header may hold anything (surrogateescape).
        digest = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found: frozenset[Scope] | None = None
        for known, scopes in self._known:
            if hmac.compare_digest(known, digest):
                found = scopes
        return found

    def check(self, request: web.BaseRequest, needed: Scope | None) -> None:
        """Refuse a request without a token of the scope that it needs; None: it needs no token.

        Raises:
            Problem: 401 or 403.
        """
        self.check_origin(request)
        if needed is None:
            return
        scopes = self.scopes(request)
        if scopes is None:
            raise Problem(
                "unauthorized",
                "send 'Authorization: Bearer <token>'; `mooring token` prints the token",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if needed not in scopes:
            raise Problem("forbidden", f"this token lacks the scope {needed!r}")


def _as_browsers_say(host: str) -> tuple[str, ...]:
    """Return the spellings of a host that is configured: browsers leave the default port out."""
    name, _, port = host.rpartition(":")
    return (host, name) if port in ("80", "443") else (host,)


def own_hosts(listen_host: str, port: int, *, secure: bool) -> frozenset[str]:
    """Return the Host values that are answered when listening on `listen_host`."""
    names = {"localhost", "127.0.0.1", "[::1]"}
    if listen_host not in ("0.0.0.0", "::", ""):
        names.add(f"[{listen_host}]" if ":" in listen_host else listen_host.lower())
    found = {f"{name}:{port}" for name in names}
    if port == (443 if secure else 80):
        found |= names
    return frozenset(found)
