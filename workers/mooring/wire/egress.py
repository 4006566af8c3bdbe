"""Where connections may go. Pure: a decision about one host and the address that is really dialled.

Order: what `deny` names is refused; addresses of `DENIED_NETWORKS` are refused unless `allow` names a network inside
that block; with an empty `allow` everything else may be dialled, otherwise only what it names.
An entry is a network (``10.0.0.0/8``, ``::1``) or a host pattern (``example.com``, ``*.example.com``), optionally with
a port (``example.com:443``). A host pattern never opens a denied network: names can be made to point anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

DENIED_NETWORKS: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(text), what)
    for text, what in (
        ("169.254.0.0/16", "link-local (cloud metadata)"),
        ("100.100.100.200/32", "cloud metadata"),
        ("168.63.129.16/32", "cloud metadata"),
        ("192.0.0.192/32", "cloud metadata"),
        ("fd00:ec2::254/128", "cloud metadata"),
        ("fd20:ce::254/128", "cloud metadata"),
        ("fe80::/10", "link-local"),
        ("0.0.0.0/8", "unspecified"),
        ("::/128", "unspecified"),
        ("224.0.0.0/4", "multicast"),
        ("255.255.255.255/32", "broadcast"),
        ("ff00::/8", "multicast"),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_COMPATIBLE = IPv6Network("::/96")
_HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._-]*[A-Za-z0-9_])?\.?\Z|\*\Z")


class HostPattern(msgspec.Struct, frozen=True):
    """``example.com`` or ``*.example.com``, in lower case, and a port or None."""

    pattern: str
    port: int | None

    def matches(self, host: str, port: int) -> bool:
        """Say whether `host` (any case, a final dot allowed) and `port` are meant."""
        if self.port is not None and self.port != port:
            return False
        host = host.lower().rstrip(".")
        if self.pattern == "*":
            return True
        if self.pattern.startswith("*."):
            return host.endswith(self.pattern[1:])
        return host == self.pattern


def parse_entry(text: str) -> HostPattern | Network:
    """Return what one entry of ``allow`` or ``deny`` means.

    Raises:
        ValueError: If it is neither a network nor a host pattern.
    """
    try:
        return ip_network(text, strict=False)
    except ValueError:
        pass
    host, colon, port_text = text.partition(":")
    port = None
    if colon:
        if not port_text.isascii() or not port_text.isdigit() or not 1 <= int(port_text) <= 65535:
            raise ValueError(f"{text!r} is neither a network nor a host pattern")
        port = int(port_text)
    if not _HOST_PATTERN.match(host):
        raise ValueError(f"{text!r} is neither a network nor a host pattern")
    return HostPattern(host.lower().rstrip("."), port)


def spellings(address: Address) -> list[Address]:
    """Return `address` and the IPv4 addresses that it is another spelling of.

    Mapped and compatible (RFC 4291 section 2.5.5), translated (RFC 2765), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056) and
    Teredo (RFC 4380).
    """
    found: list[Address] = [address]
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            found.append(address.ipv4_mapped)
        if address.sixtofour is not None:
            found.append(address.sixtofour)
        if address.teredo is not None:
            found.extend(address.teredo)
        low = int(address) & 0xFFFFFFFF
        if address in _NAT64 or address in _TRANSLATED or (address in _COMPATIBLE and low > 0xFFFF):
            found.append(IPv4Address(low))
        if address in _LOCAL_NAT64:
            found.extend(_embedded(address.packed))
    return found


def _embedded(packed: bytes) -> list[IPv4Address]:
    """Return what an address of a NAT64 prefix of /48, /56, /64 or /96 may stand for (RFC 6052 section 2.2)."""
    found = [packed[12:]]
    for start in (6, 7, 8):  # where the prefix ends; octet 8 is nobody's, and what follows the address is zero
        if not packed[8] and not any(packed[start + 5 :]):
            found.append((packed[start:8] + packed[9:13])[:4])
    # Read with another prefix than it was made for, an address begins with zeros.
    return [IPv4Address(embedded) for embedded in found if embedded[0]] or [IPv4Address(packed[12:])]


class EgressPolicy:
    """The decision, made from the configuration's lists.

    Args:
        table: The one of the configuration that texts name.

    Raises:
        ValueError: If an entry is neither a network nor a host pattern.
    """

    def __init__(self, allow: Iterable[str] = (), deny: Iterable[str] = (), *, table: str = "egress") -> None:
        self._table = table
        allowed = [parse_entry(text) for text in allow]
        denied = [parse_entry(text) for text in deny]
        self._allow_hosts = [entry for entry in allowed if isinstance(entry, HostPattern)]
        self._allow_networks = [entry for entry in allowed if not isinstance(entry, HostPattern)]
        self._deny_hosts = [entry for entry in denied if isinstance(entry, HostPattern)]
        self._deny_networks = [entry for entry in denied if not isinstance(entry, HostPattern)]
        # Most dials go to few places, and the lists of one policy never change.
        self.refusal = lru_cache(maxsize=1024)(self._refusal)
        self.refusal_of_proxy = lru_cache(maxsize=64)(self._denial)

    def _refusal(self, host: str, port: int, address_text: str) -> str | None:
        """Return why `host`, dialled as `address_text`, may not be dialled, or None when it may."""
        denial = self._denial(host, port, address_text)
        if denial is not None or not (self._allow_hosts or self._allow_networks):
            return denial
        if any(entry.matches(host, port) for entry in self._allow_hosts):
            return None
        address = ip_address(address_text.partition("%")[0])
        if any(form in network for form in spellings(address) for network in self._allow_networks):
            return None
        return f"[{self._table}] allow does not name {host} ({address})"

    def _denial(self, host: str, port: int, address_text: str) -> str | None:
        """Return why a proxy that the operator has named may not be dialled as `address_text`: `allow` is not asked."""
        address = ip_address(address_text.partition("%")[0])
        forms = spellings(address)
        if any(entry.matches(host, port) for entry in self._deny_hosts):
            return f"the egress policy denies the host {host}"
        for form in forms:
            if any(form in network for network in self._deny_networks):
                return f"the egress policy denies the address {address}"
        for form in forms:
            for network, what in DENIED_NETWORKS:
                if form in network and not self._opened(form, network):
                    return f"the address {address} is {what}: denied unless [{self._table}] allow names it"
        return None

    def refusal_of_name(self, host: str, port: int) -> str | None:
        """Return why a proxy may not be asked for `host`, whose address we never see: only host rules can be held."""
        if any(entry.matches(host, port) for entry in self._deny_hosts):
            return f"the egress policy denies the host {host}"
        if not (self._allow_hosts or self._allow_networks):
            return None
        if any(entry.matches(host, port) for entry in self._allow_hosts):
            return None
        return f"[{self._table}] allow does not name {host}: a network in it cannot, where a proxy resolves the name"

    def _opened(self, form: Address, denied: Network) -> bool:
        for network in self._allow_networks:
            if form in network and network.version == denied.version and network.prefixlen >= denied.prefixlen:
                return True
        return False
