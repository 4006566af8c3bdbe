"""Where connections may go."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from mooring.wire.egress import EgressPolicy, parse_entry

METADATA = ["169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"]
HIDDEN = ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe"]
OTHERS = ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1", "169.254.1.1"]


@pytest.mark.parametrize("address", METADATA + HIDDEN + OTHERS)
def test_addresses_that_nobody_may_dial_unless_they_are_named(address: str) -> None:
    assert EgressPolicy().refusal("host", 80, address)
    assert EgressPolicy(allow=["host", "*"]).refusal("host", 80, address), "a host pattern opens no denied network"
    assert EgressPolicy(allow=["0.0.0.0/0", "::/0"]).refusal("host", 80, address), "nor does a network around it"


def spelled(address: str) -> dict[str, str]:
    """Return all that may reach the IPv4 `address`."""
    number = int(IPv4Address(address))
    high, low = number >> 16, number & 0xFFFF
    hidden = (number ^ 0xFFFFFFFF) & 0xFFFFFFFF
    b = IPv4Address(address).packed

    def embedded(before: int, prefix: bytes) -> str:  # RFC 6052 section 2.2
        packed = (prefix + bytes(8))[:before] + b[: 8 - before] + b"\0" + b[8 - before :]
        return str(IPv6Address((packed + bytes(16))[:16]))

    local = bytes.fromhex("0064ff9b0001")
    return {
        "mapped": f"::ffff:{address}",
        "compatible": f"::{address}",
        "translated": f"::ffff:0:{address}",
        "NAT64": f"64:ff9b::{address}",
        "local NAT64, /96": f"64:ff9b:1::{address}",
        "local NAT64, /96 of a longer prefix": f"64:ff9b:1:ffff:0:1:{address}",
        "local NAT64, /48": embedded(6, local),
        "local NAT64, /56": embedded(7, local),
        "local NAT64, /64": embedded(8, local),
        "6to4": f"2002:{high:x}:{low:x}::1",
        "Teredo, the server": f"2001:0:{high:x}:{low:x}::1",
        "Teredo, the client": f"2001:0:102:304:8000:63bf:{hidden >> 16:x}:{hidden & 0xFFFF:x}",
    }


@pytest.mark.parametrize("address", [address for address in METADATA if ":" not in address])
@pytest.mark.parametrize("spelling", list(spelled("1.2.3.4")))
def test_a_denied_address_is_denied_in_every_spelling(address: str, spelling: str) -> None:
    other = spelled(address)[spelling]
    assert EgressPolicy().refusal("host", 80, other), other
    assert EgressPolicy(allow=["host", "::/0"]).refusal("host", 80, other), other
    assert EgressPolicy(deny=["1.2.3.0/24"]).refusal("host", 80, spelled("1.2.3.4")[spelling])
    assert EgressPolicy().refusal("host", 80, spelled("1.2.3.4")[spelling]) is None, "the spelling alone harms nobody"
    assert EgressPolicy().refusal("host", 80, str(IPv6Address(other)).upper())


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "8.8.8.8", "2001:db8::1", "::ffff:127.0.0.1"])
def test_addresses_that_are_open_by_default(address: str) -> None:
    assert EgressPolicy().refusal("host", 80, address) is None


def test_a_denied_address_opens_when_allow_names_it() -> None:
    policy = EgressPolicy(allow=["169.254.169.254", "*"])
    assert policy.refusal("m", 80, "169.254.169.254") is None
    assert policy.refusal("m", 80, "169.254.169.253")


def test_deny_beats_allow_and_a_list_means_only_what_it_names() -> None:
    policy = EgressPolicy(allow=["*.example.com", "10.0.0.0/8"], deny=["bad.example.com", "10.1.0.0/16"])
    assert policy.refusal("good.example.com", 443, "93.184.216.34") is None
    assert policy.refusal("bad.example.com", 443, "93.184.216.34")
    assert policy.refusal("other.org", 443, "93.184.216.34")
    assert policy.refusal("x", 80, "10.2.3.4") is None
    assert policy.refusal("good.example.com", 80, "10.1.3.4")
    assert policy.refusal("x", 80, "::ffff:10.1.3.4"), "also in the mapped spelling"


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "a b", "exa*mple..com/8"])
def test_entries_that_mean_nothing_are_errors(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_entry(entry)
