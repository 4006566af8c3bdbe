"""Which way a dial takes: through which proxy, or none, and who resolves the name. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from ipaddress import ip_address

import msgspec
from msgspec import UNSET, UnsetType

from mooring.dial_options import (
    DialSettings,
    Family,
    ProxyRequest,
    ProxySettings,
    Resolve,
    TlsRequest,
    check_proxy,
    split_proxy_url,
)
from mooring.errors import ErrCode
from mooring.wire.egress import HostPattern, parse_entry, spellings
from mooring.wire.failure import failed
from mooring.wire.target import Target, ascii_host


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one dial beside its target.

    Attributes:
        proxy: A name of ``[proxies]``, a proxy, None for no proxy, or `UNSET`: as ``[dial]`` says.
        family: Of the addresses that are dialled, or handed to a proxy.
        addresses: Dialled instead of looking the name up.
        local_address: The address of this machine that is dialled from.
        keepalive: Whether TCP looks by itself whether the peer is still there.
        timeout_s: Of the whole dial.
    """

    tls: TlsRequest = TlsRequest()
    proxy: str | ProxyRequest | UnsetType | None = UNSET
    family: Family = "any"
    addresses: list[str] = []
    local_address: str | None = None
    keepalive: bool = False
    timeout_s: float = 10.0


class Proxy(msgspec.Struct, frozen=True):
    """A proxy, ready to be dialled.

    Attributes:
        is_configured: Whether the operator chose it: only then it may resolve names, and is the border that we are not.
        label: What texts call it; no credential.
    """

    scheme: str
    host: str
    port: int
    username: str | None
    password: str | None
    password_file: str | None
    resolve: Resolve
    tls: TlsRequest
    is_configured: bool
    label: str


class Routes:
    """The decision, made from the configuration.

    Raises:
        ValueError: If the configuration is not valid.
    """

    def __init__(self, settings: DialSettings) -> None:
        self._proxies: dict[str, Proxy] = {}
        for name, proxy in settings.proxies.items():
            for fault in check_proxy(proxy, f"[proxies.{name}] "):
                raise ValueError(f"{fault.pointer}: {fault.detail}")
            self._proxies[name] = _proxy(proxy, f"proxy {name} ({proxy.url})")
        if settings.proxy is not None and settings.proxy not in self._proxies:
            raise ValueError(f"[dial] proxy: no {settings.proxy!r} in [proxies]")
        self._default = self._proxies.get(settings.proxy or "")
        self._bypass = [parse_entry(text) for text in settings.bypass]
        for host, addresses in settings.hosts.items():
            if not addresses or not all(map(_is_address, addresses)):
                raise ValueError(f"[dial] hosts: {host!r} needs a list of addresses")
        self._hosts = {_plain(ascii_host(host)): addresses for host, addresses in settings.hosts.items()}

    def addresses_of(self, host: str) -> list[str]:
        """Return what ``[dial] hosts`` says about `host`: perhaps nothing."""
        return self._hosts.get(_plain(host), [])

    def proxy_for(
        self, asked: str | ProxyRequest | UnsetType | None, target: Target, literals: Iterable[str]
    ) -> Proxy | None:
        """Return the proxy for `target`, or None: direct.

        Args:
            literals: Its addresses, where they are known without asking anybody.

        Raises:
            DialFailed: If the configuration has none of that name (any more).
        """
        if asked is None:
            return None
        if isinstance(asked, ProxyRequest):
            try:
                return _proxy(asked, f"proxy {asked.url}")
            except ValueError:
                raise failed(ErrCode.PROXY_UNREACHABLE, f"{target.place}: the host of its proxy is none") from None
        if isinstance(asked, str):
            if asked not in self._proxies:
                nearest = difflib.get_close_matches(asked, self._proxies, 1)
                hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
                raise failed(
                    ErrCode.PROXY_UNREACHABLE, f"{target.place}: [proxies] of the configuration has no {asked!r}{hint}"
                )
            return self._proxies[asked]
        if self._default is None or self._is_bypassed(target, list(literals)):
            return None
        return self._default

    def _is_bypassed(self, target: Target, literals: list[str]) -> bool:
        name = _plain(target.host)
        if name == "localhost" or name.endswith(".localhost"):
            return True
        if any(isinstance(entry, HostPattern) and entry.matches(name, target.port) for entry in self._bypass):
            return True
        return bool(literals) and all(self._is_near(text) for text in literals)

    def _is_near(self, literal: str) -> bool:
        forms = spellings(ip_address(literal.partition("%")[0]))
        networks = [entry for entry in self._bypass if not isinstance(entry, HostPattern)]
        return any(form.is_loopback or any(form in network for network in networks) for form in forms)


def _proxy(asked: ProxyRequest, label: str) -> Proxy:
    scheme, host, port = split_proxy_url(asked.url)
    configured = isinstance(asked, ProxySettings)
    default: Resolve = "proxy" if configured and scheme != "socks5" else "local"
    return Proxy(
        scheme="socks5" if scheme == "socks5h" else scheme,
        host=ascii_host(host) if ":" not in host else host,
        port=port,
        username=asked.username,
        password=asked.password,
        password_file=asked.password_file if isinstance(asked, ProxySettings) else None,
        resolve=asked.resolve or default,
        tls=asked.tls or TlsRequest(),
        is_configured=configured,
        label=label,
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
