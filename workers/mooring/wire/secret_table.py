"""``[secrets]``: what stands for ``${secret:NAME}``, read when it is needed, and where it may go.

A secret that is bound to hosts may be sent to these, whoever asks; one that is not serves only what the configuration itself
declares. Whoever may open a connection to any address must not be able to have a secret sent there. No text of ours holds a value.

A source is a small file (``file:/run/secrets/feed``), read as it is now, or a variable of this process (``env:FEED_TOKEN``).
"""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from mooring.dial_options import BoundSecret, ProxyRequest, SecretSource, split_proxy_url
from mooring.errors import ErrCode
from mooring.name_errors import SecretNotAllowed
from mooring.wire.egress import HostPattern, Network, parse_entry
from mooring.wire.failure import failed, reason_of, refused_by_policy
from mooring.wire.target import parse_target

MAX_SECRET_BYTES = 64 * 1024  # a token, or a key in PEM; whatever it is put into has bounds of its own

Place = tuple[str, int]


class NoSecret(Exception):
    """There is no value: the text says why, and names file or variable."""


class Secrets:
    """The secrets that the configuration names.

    Raises:
        ValueError: If a host pattern is none.
    """

    def __init__(self, table: Mapping[str, SecretSource] | None = None) -> None:
        self._sources: dict[str, str] = {}
        self._hosts: dict[str, list[HostPattern | Network]] = {}
        for name, source in (table or {}).items():
            if isinstance(source, BoundSecret):
                self._sources[name] = source.source
                self._hosts[name] = [parse_entry(entry) for entry in source.hosts]
            else:
                self._sources[name] = source

    def unknown(self, name: str) -> str | None:
        """Return what is wrong with a name that the table does not have; None: it has it."""
        if name in self._sources:
            return None
        nearest = difflib.get_close_matches(name, self._sources, 1)
        return f"[secrets] has no {name!r}{f'; did you mean {nearest[0]!r}?' if nearest else ''}"

    def check_bound(self, name: str, places: Iterable[Place]) -> None:
        """Check that a secret may be sent to all of `places`, whoever asks.

        Raises:
            SecretNotAllowed: If it is not bound to one of them.
        """
        bound = self._hosts.get(name, [])
        for host, port in places:
            if not any(_is_meant(entry, host, port) for entry in bound):
                raise SecretNotAllowed(name, host)

    def read(self, name: str) -> str:
        """Return the value of a secret, as it is now; one line feed at the end of a file is none of it.

        Raises:
            NoSecret: If there is none.
        """
        wrong = self.unknown(name)
        if wrong is not None:
            raise NoSecret(wrong)
        return read_source(self._sources[name])

    def values(self, names: Iterable[str], places: Iterable[Place], *, declared: bool) -> dict[str, str]:
        """Return the values for one attempt that sends them to `places`.

        Args:
            declared: The configuration itself has named the address.

        Raises:
            DialFailed: If one may not be sent there (106), or cannot be had now (113).
        """
        found = {}
        where = list(places)
        for name in sorted(names):
            try:
                if not declared:
                    self.check_bound(name, where)
                found[name] = self.read(name)
            except SecretNotAllowed as exc:
                raise refused_by_policy(str(exc)) from None
            except NoSecret as exc:
                raise failed(ErrCode.RENEW_FAILED, f"the secret {name!r} cannot be had: {exc}") from None
        return found


def read_source(source: str) -> str:
    """Return what `source` holds now.

    Raises:
        NoSecret: If there is nothing, or no text.
    """
    kind, _, place = source.partition(":")
    if kind == "env":
        value = os.environ.get(place, "")
        if not value:
            raise NoSecret(f"the variable {place} is not set, or is empty")
        return value
    try:
        # A pipe without a writer must not hold us up.
        descriptor = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise NoSecret(f"{place} is no file")
            data = file.read(MAX_SECRET_BYTES + 1)
        value = data.decode()
    except OSError as exc:
        raise NoSecret(f"the file {place} cannot be read: {reason_of(exc)}") from None
    except UnicodeDecodeError:
        raise NoSecret(f"the file {place} is not UTF-8") from None
    if len(data) > MAX_SECRET_BYTES:
        raise NoSecret(f"the file {place} is longer than {MAX_SECRET_BYTES} bytes")
    value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise NoSecret(f"the file {place} is empty")
    return value


def places_of(url: str, addresses: Iterable[str] = (), proxy: object = None) -> list[Place]:
    """Return all that may see what is sent to `url`, of what a request has named: host, addresses in its stead, and its proxy.

    Raises:
        ValueError: If the host is none.
    """
    target = parse_target(url)
    found = [(target.host, target.port), *((address, target.port) for address in addresses)]
    if isinstance(proxy, ProxyRequest):
        _, host, port = split_proxy_url(proxy.url)
        found.append((host, port))
    return found


def _is_meant(entry: HostPattern | Network, host: str, port: int) -> bool:
    if isinstance(entry, HostPattern):
        return entry.matches(host, port)
    try:
        return ip_address(host.partition("%")[0]) in entry
    except ValueError:  # a name: what it will point to is not known
        return False
