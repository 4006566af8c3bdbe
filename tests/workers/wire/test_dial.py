"""Where a dial goes: the egress policy, asked about the name and the address that are really dialled."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialler
from mooring.wire.egress import EgressPolicy
from tests.servers import EchoServer


class Row(NamedTuple):
    host: str
    deny: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()


REFUSED = [
    Row("127.0.0.1", deny=("127.0.0.0/8",)),
    Row("127.1", deny=("127.0.0.0/8",)),
    Row("0x7f.1", deny=("127.0.0.0/8",)),
    Row("[::ffff:127.0.0.1]", deny=("127.0.0.0/8",)),
    Row("localhost", deny=("127.0.0.0/8", "::1")),
    Row("localhost", deny=("localhost",)),
    Row("LOCALHOST", deny=("localhost",)),
    Row("ｌｏｃａｌｈｏｓｔ", deny=("localhost",)),
    Row("ⓛocalhost", deny=("localhost",)),
    Row("localhost", allow=("example.com",)),
    Row("ｌocalhost", allow=("example.com", "10.0.0.0/8")),
    Row("①②⑦.⓪.⓪.①", deny=("127.0.0.1",)),
    # The table, without any configuration.
    Row("0.0.0.0"),
    Row("[::]"),
    Row("169.254.169.254"),
    Row("[::ffff:169.254.169.254]"),
    Row("[::169.254.169.254]"),
    Row("[64:ff9b::a9fe:a9fe]"),
    Row("[2002:a9fe:a9fe::1]"),
    Row("[fe80::1%25lo]"),
    Row("[fd00:ec2::254]"),
    Row("100.100.100.200"),
    Row("168.63.129.16"),
    Row("224.0.0.1"),
]


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: f"{row.host} deny {row.deny} allow {row.allow}")
async def test_every_spelling_of_what_is_denied_is_refused_before_a_packet_leaves(row: Row, echo: EchoServer) -> None:
    dialler = Dialler(EgressPolicy(row.allow, row.deny))
    try:
        with pytest.raises(DialFailed) as failed:
            await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
    finally:
        await dialler.close()
    # "127.1" and its like are refused by aiohttp itself where it is new enough, others by the resolver.
    assert failed.value.errors[0].err_code in (ErrCode.POLICY_REFUSED, ErrCode.NAME_NOT_RESOLVED), failed.value
    assert failed.value.policy or row.host in ("127.1", "0x7f.1")
    assert echo.peers == []


@pytest.mark.parametrize(
    "row",
    [
        Row("localhost", allow=("localhost",)),
        Row("ｌｏｃａｌｈｏｓｔ", allow=("*",)),
        Row("127.0.0.1", allow=("127.0.0.1",)),
    ],
    ids=lambda row: row.host,
)
async def test_what_is_allowed_is_dialled(row: Row, echo: EchoServer) -> None:
    dialler = Dialler(EgressPolicy(row.allow, row.deny))
    try:
        dialled = await dialler.dial(ConnectionOptions(url=f"ws://{row.host}:{echo.port}/"))
        dialled.transport.abort()
    finally:
        await dialler.close()
    assert len(echo.peers) == 1


@pytest.mark.parametrize("host", ["a\u200b..b", "xn--a", "\u0378.example", "a" * 64])
async def test_a_name_that_is_none_is_not_resolved(host: str) -> None:
    dialler = Dialler(EgressPolicy())
    try:
        with pytest.raises(DialFailed) as failed:
            await dialler.dial(ConnectionOptions(url=f"ws://{host}/?token=secret"))
    finally:
        await dialler.close()
    assert failed.value.errors[0].err_code == ErrCode.NAME_NOT_RESOLVED
    assert "secret" not in str(failed.value.errors)
