"""Where connections may go."""

from __future__ import annotations

import pytest

from mooring.wire.egress import EgressPolicy, parse_entry

METADATA = ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"]
HIDDEN = ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe"]
OTHERS = ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1", "169.254.1.1"]


@pytest.mark.parametrize("address", METADATA + HIDDEN + OTHERS)
def test_addresses_that_nobody_may_dial_unless_they_are_named(address: str) -> None:
    assert EgressPolicy().refusal("host", 80, address)
    assert EgressPolicy(allow=["host", "*"]).refusal("host", 80, address), "a host pattern opens no denied network"
    assert EgressPolicy(allow=["0.0.0.0/0", "::/0"]).refusal("host", 80, address), "nor does a network around it"


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
