"""Where the API listens, and with which certificate. It knows no HTTP."""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
import stat
from pathlib import Path

import msgspec

from mooring_api.server import systemd
from mooring_service.config import ApiConfig, ConfigError

MAX_SOCKET_PATH_BYTES = 107  # sun_path of unix(7), without the closing NUL


class Listen(msgspec.Struct, frozen=True):
    """Where the API listens: a TCP address, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None

    def url(self, port: int, *, secure: bool) -> str:
        """Return where clients of this machine find the API; `port` is the one that was had."""
        if self.path is not None:
            return f"unix:{self.path}"
        host = self.host if self.host not in ("0.0.0.0", "::") else "127.0.0.1"
        return f"{'https' if secure else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def parse_listen(text: str) -> Listen:
    """Return what ``HOST:PORT`` or ``unix:PATH`` means.

    Raises:
        ConfigError: If it is neither.
    """
    if text.startswith("unix:"):
        if not text[5:]:
            raise ConfigError("api.listen: unix: needs a path")
        return Listen(path=text[5:])
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"api.listen: {text!r} is not HOST:PORT or unix:PATH")
    return Listen(host.strip("[]"), int(port))


def is_loopback(host: str) -> bool:
    """Say whether listening on `host` reaches only this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def tls_of(listen: Listen, api: ApiConfig) -> ssl.SSLContext | None:
    """Return with which certificate `listen` is served; None: without TLS.

    Raises:
        ConfigError: If the certificate cannot be used, or tokens would travel in the clear.
    """
    if api.tls_cert is None:
        if listen.path is None and not is_loopback(listen.host) and not api.allow_remote:
            raise ConfigError(
                f"{listen.host} is not loopback: give tls_cert and tls_key, or say --allow-remote to send tokens in the clear"
            )
        return None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(api.tls_cert, api.tls_key, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"api.tls_cert: cannot be used: {exc}") from None
    return tls


def bind(listen: Listen) -> socket.socket:
    """Return a socket that is bound there, and does not listen yet.

    Raises:
        ConfigError: If the address cannot be had.
    """
    if listen.path is not None:
        return _bind_path(listen.path)
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((listen.host, listen.port))
    except (OSError, UnicodeError) as exc:  # UnicodeError: no name of a host
        sock.close()
        why = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"cannot listen on {listen.host}:{listen.port}: {why}; choose another with --listen, or end what has it"
        ) from None
    return sock


def check_path(path: str) -> None:
    """Check that a Unix socket may be made at `path`; nothing is made.

    Raises:
        ConfigError: If it may not.
    """
    if _is_socket(path):
        if _somebody_listens(path):
            raise ConfigError(
                f"cannot listen on unix:{path}: it is in use; choose another with --listen, or end what has it"
            )
        return
    if len(os.fsencode(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"cannot listen on unix:{path}: the path is longer than {MAX_SOCKET_PATH_BYTES} bytes")
    if os.path.lexists(path):
        raise ConfigError(f"cannot listen on unix:{path}: there is a file that is no socket")
    folder = Path(path).parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"cannot listen on unix:{path}: {folder} is no directory that can be written")


def _bind_path(path: str) -> socket.socket:
    check_path(path)
    if _is_socket(path):
        Path(path).unlink()  # left behind by one that was killed
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        sock.bind(path)
    except OSError as exc:
        sock.close()
        raise ConfigError(f"cannot listen on unix:{path}: {exc.strerror or exc}") from None
    finally:
        os.umask(old)
    return sock


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its queue is full
        except OSError:
            return False
        return True


class SocketFile:
    """The file of a Unix socket that is ours: whoever has it meanwhile keeps it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._made = self._identity()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def remove(self) -> None:
        """Remove it, if it is still the one that was there."""
        if self._made is not None and self._identity() == self._made:
            Path(self._path).unlink(missing_ok=True)


def inherited_or_wanted(wanted: str) -> tuple[Listen, systemd.Inherited | None]:
    """Return where to listen, and the socket that does already, if there is one; `wanted` is the setting.

    Raises:
        ConfigError: If the setting is none.
    """
    listen = parse_listen(wanted)
    inherited = systemd.inherited_socket()
    if inherited is None or inherited.listen == wanted:
        return listen, inherited
    if inherited.listen is not None:
        inherited.socket.close()  # the setting has changed since
        before = parse_listen(inherited.listen)
        if before.path is not None:
            SocketFile(before.path).remove()
        return listen, None
    # The manager's socket beats the setting; the rules are those of where it really listens.
    name = inherited.socket.getsockname()
    unix = inherited.socket.family == socket.AF_UNIX
    return (Listen(path=name) if unix else Listen(name[0], name[1])), inherited
