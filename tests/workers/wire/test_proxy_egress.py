"""What the egress policy lets through a proxy, and which proxy a dial takes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from mooring.dial_options import DialSettings, ProxyRequest, ProxySettings
from mooring.errors import ErrCode
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed, Dialler
from mooring.wire.egress import DENIED_NETWORKS, EgressPolicy
from mooring.wire.route import Routes
from mooring.wire.target import Target
from tests.servers import RawConnection, RawServer


class Ledger:
    """A fake proxy of both kinds that connects nobody, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.touched = 0

    async def __aenter__(self) -> Ledger:
        self._server = RawServer(self._serve, early=True)
        await self._server.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._server.__aexit__(*exc)

    @property
    def port(self) -> int:
        return self._server.port

    async def _serve(self, connection: RawConnection) -> None:
        self.touched += 1
        first = await connection.reader.readexactly(1)
        if first == b"\x05":
            await connection.reader.read(100)
            connection.writer.write(b"\x05\x00")
            _, _, _, kind = await connection.reader.readexactly(4)
            if kind == 3:
                size = (await connection.reader.readexactly(1))[0]
                host = (await connection.reader.readexactly(size)).decode()
            else:
                packed = await connection.reader.readexactly({1: 4, 4: 16}[kind])
                host = socket.inet_ntop({1: socket.AF_INET, 4: socket.AF_INET6}[kind], packed)
            port = int.from_bytes(await connection.reader.readexactly(2), "big")
            self.asked.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            connection.writer.write(b"\x05\x05\x00\x01" + bytes(6))
        else:
            await connection.read_request()
            self.asked.append(connection.request_line.split(" ")[1])
            connection.writer.write(b"HTTP/1.1 403 No\r\n\r\n")
        await connection.writer.drain()


@asynccontextmanager
async def a_dialler(policy: EgressPolicy | None = None, **more: Any) -> AsyncIterator[Dialler]:
    dialler = Dialler(policy or EgressPolicy(), settings=DialSettings(**more))
    try:
        yield dialler
    finally:
        await dialler.close()


async def failure(attempt: Awaitable[object]) -> DialFailed:
    with pytest.raises(DialFailed) as failed:
        await attempt
    return failed.value


def dial(dialler: Dialler, url: str, **options: Any) -> Awaitable[object]:
    return dialler.dial(ConnectionOptions(url=url, connect_timeout_s=60, **options))


DENIED = [
    "169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "①⑥⑨.254.169.254", "169。254。169。254",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[::169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::1]",
    "100.100.100.200", "[::ffff:100.100.100.200]", "168.63.129.16", "0xa83f8110", "[fd00:ec2::254]", "[FD00:0EC2:0::0254]",
    "0.0.0.0", "0", "[::]", "[fe80::1]", "[fe80::1%25lo]", "224.0.0.1", "[ff02::1]", "255.255.255.255", "127.0.0.9", "0x7f.9",
]  # fmt: skip


def spelled(network: IPv4Network | IPv6Network) -> list[str]:
    """Return hosts of URLs that mean an address of `network`, in each spelling that is known of its kind."""
    address = network[min(1, network.num_addresses - 1)]
    if isinstance(address, IPv6Address):
        return [f"[{address}]", f"[{address.exploded.upper()}]"]
    high, low = divmod(int(address), 1 << 16)
    v4 = f"{high:x}:{low:x}"
    return [
        str(address), hex(int(address)), f"[::ffff:{address}]", f"[::ffff:{v4}]", f"[::ffff:0:{v4}]",
        f"[64:ff9b::{v4}]", f"[2002:{v4}::1]",
    ]  # fmt: skip


SPELLED = [host for network, _ in DENIED_NETWORKS for host in spelled(network)]


@pytest.mark.parametrize("host", [*DENIED, *(host for host in SPELLED if host not in DENIED)])
async def test_what_is_denied_is_refused_as_a_literal_before_any_proxy_sees_a_byte(host: str) -> None:
    async with Ledger() as ledger:
        http, socks = f"http://127.0.0.1:{ledger.port}", f"socks5h://127.0.0.1:{ledger.port}"
        policy = EgressPolicy(deny=["127.0.0.9"])
        async with a_dialler(
            policy, proxies={"http": ProxySettings(url=http), "socks": ProxySettings(url=socks)}
        ) as dialler:
            for proxy in ("http", "socks", ProxyRequest(url=http), ProxyRequest(url=http, resolve="proxy")):
                failed = await failure(dial(dialler, f"ws://{host}:80/", proxy=proxy))
                assert failed.errors[0].err_code == ErrCode.POLICY_REFUSED, failed.errors
                assert failed.policy
                failed = await failure(
                    dial(dialler, "ws://feed.test/", proxy=proxy, addresses=[host.strip("[]").replace("%25", "%")])
                )
                assert failed.policy or not host.isascii()
        assert ledger.touched == 0


@pytest.mark.parametrize("host", ["169.254.169.254.", "127.0.0.1."])
async def test_a_final_dot_makes_no_name_of_an_address(host: str) -> None:
    async with Ledger() as ledger:
        proxies = {"p": ProxySettings(url=f"http://127.0.0.1:{ledger.port}")}
        async with a_dialler(proxies=proxies) as dialler:
            failed = await failure(dial(dialler, f"ws://{host}:80/", proxy="p"))
            assert failed.errors[0].err_code in (ErrCode.NAME_NOT_RESOLVED, ErrCode.POLICY_REFUSED)
        assert ledger.touched == 0


@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_resolved_here_the_proxy_is_asked_for_the_address_that_was_checked(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["10.1.2.3", "169.254.169.254", "10.1.2.4"])
    real = socket.getaddrinfo

    def rebinds(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host == "rebind.test" and not kwargs.get("flags", 0) & socket.AI_NUMERICHOST:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 0))]
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", rebinds)
    async with Ledger() as ledger, a_dialler() as dialler:
        way = dict(proxy=ProxyRequest(url=f"{scheme}://127.0.0.1:{ledger.port}"))
        await failure(dial(dialler, "ws://rebind.test/", **way))
        assert ledger.asked == ["10.1.2.3:80"]
        assert (await failure(dial(dialler, "ws://rebind.test/", **way))).policy
        await failure(dial(dialler, "wss://rebind.test:8443/", **way))
        assert ledger.asked == ["10.1.2.3:80", "10.1.2.4:8443"]


async def test_of_several_addresses_the_next_is_asked_for_when_the_proxy_cannot_reach_one() -> None:
    async with Ledger() as ledger, a_dialler(EgressPolicy(deny=["10.0.0.2"])) as dialler:
        way = dict(
            proxy=ProxyRequest(url=f"socks5://127.0.0.1:{ledger.port}"), addresses=["10.0.0.1", "10.0.0.2", "fd00::3"]
        )
        failed = await failure(dial(dialler, "ws://feed.test:81/", **way))
        assert failed.errors[0].err_code == ErrCode.REFUSED
        assert ledger.asked == ["10.0.0.1:81", "[fd00::3]:81"]
        ledger.asked.clear()
        await failure(dial(dialler, "ws://feed.test:81/", **way, family="ipv6"))
        assert ledger.asked == ["[fd00::3]:81"]


async def test_resolved_by_the_proxy_only_a_configured_one_is_asked_and_host_rules_hold() -> None:
    async with Ledger() as ledger:
        http = f"http://127.0.0.1:{ledger.port}"
        proxies = {"http": ProxySettings(url=http), "socks": ProxySettings(url=f"socks5h://127.0.0.1:{ledger.port}")}
        async with a_dialler(
            EgressPolicy(deny=["*.evil.test", "10.0.0.0/8", "odd.test:81"]), proxies=proxies
        ) as dialler:
            failed = await failure(dial(dialler, "ws://no-such.test/", proxy=ProxyRequest(url=http, resolve="proxy")))
            assert failed.policy
            assert 'resolve "local"' in failed.errors[0].message
            for name in ("http", "socks"):
                for host in ("a.evil.test", "A.EVIL.TEST.", "ａ.evil.test", "odd.test:81"):
                    assert (await failure(dial(dialler, f"ws://{host}/", proxy=name))).policy, host
                assert (await failure(dial(dialler, "ws://10.0.0.1/", proxy=name))).policy
            assert ledger.touched == 0
            for name in ("http", "socks"):
                await failure(dial(dialler, "ws://no-such.test/", proxy=name))
                await failure(dial(dialler, "wss://bücher.test:81/", proxy=name))
                failed = await failure(dial(dialler, "ws://no-such.test/", proxy=name, family="ipv4"))
                assert failed.errors[0].err_code == ErrCode.UNREACHABLE, "a family cannot be held there"
            assert ledger.asked == ["no-such.test:80", "xn--bcher-kva.test:81"] * 2


async def test_with_an_allow_list_a_name_that_the_proxy_resolves_must_stand_in_it() -> None:
    async with Ledger() as ledger:
        proxies = {"p": ProxySettings(url=f"http://127.0.0.1:{ledger.port}")}
        policy = EgressPolicy(allow=["*.good.test", "10.0.0.0/8"])
        async with a_dialler(policy, proxies=proxies) as dialler:
            assert (await failure(dial(dialler, "ws://no-such.test/", proxy="p"))).policy
            assert (await failure(dial(dialler, "ws://11.0.0.1/", proxy="p"))).policy
            await failure(dial(dialler, "ws://a.good.test/", proxy="p"))
            await failure(dial(dialler, "ws://10.0.0.1/", proxy="p"))
            assert ledger.asked == ["a.good.test:80", "10.0.0.1:80"]


async def test_the_leg_to_a_configured_proxy_is_exempt_from_allow_and_nothing_else_is() -> None:
    async with Ledger() as ledger:
        url = f"http://127.0.0.1:{ledger.port}"
        async with a_dialler(EgressPolicy(allow=["203.0.113.0/24"]), proxies={"p": ProxySettings(url=url)}) as dialler:
            await failure(dial(dialler, "ws://203.0.113.1/", proxy="p"))
            assert ledger.asked == ["203.0.113.1:80"]
            failed = await failure(dial(dialler, "ws://203.0.113.1/", proxy=ProxyRequest(url=url)))
            assert failed.policy, "a proxy that a request names is a place like any other"
            assert "proxy" in failed.errors[0].message
            assert (await failure(dial(dialler, f"ws://127.0.0.1:{ledger.port}/"))).policy, (
                "nor is a direct dial to it exempt"
            )
            assert (await failure(dial(dialler, f"ws://127.0.0.1:{ledger.port}/", proxy="p"))).policy
        for deny, host in (["127.0.0.0/8"], "127.0.0.1"), (["localhost"], "localhost"), ([], "169.254.0.1"):
            settings = ProxySettings(url=f"http://{host}:{ledger.port}")
            async with a_dialler(EgressPolicy(deny=deny), proxies={"p": settings}) as dialler:
                assert (await failure(dial(dialler, "ws://203.0.113.1/", proxy="p"))).policy
        assert ledger.touched == 1


# Which way.


async def accepts(connection: RawConnection) -> None:
    await connection.accept()
    await connection.reader.read()


async def test_the_environment_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger() as ledger, RawServer(accepts) as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "SOCKS_PROXY"):
            for spelled in (name, name.lower()):
                monkeypatch.setenv(spelled, f"http://127.0.0.1:{ledger.port}")
        async with a_dialler() as dialler:
            dialled: Any = await dial(dialler, server.url)
            dialled.transport.abort()
        assert ledger.touched == 0


async def test_the_default_proxy_is_taken_unless_something_says_otherwise() -> None:
    async with Ledger() as ledger, Ledger() as other, RawServer(accepts) as server:
        proxies = {
            "corp": ProxySettings(url=f"http://127.0.0.1:{ledger.port}"),
            "other": ProxySettings(url=f"http://127.0.0.1:{other.port}"),
        }
        bypass = ["*.internal", "exact.test", "port.test:81", "10.0.0.0/8", "fd00::/8"]
        hosts = {"near.test": ["127.0.0.1"], "far.test": ["192.0.2.1"]}
        async with a_dialler(proxies=proxies, proxy="corp", bypass=bypass, hosts=hosts) as dialler:
            for url, proxied in (
                ("ws://feed.test/", True),
                ("ws://internal/", True),
                ("ws://a.internal:9/", False),
                ("ws://A.INTERNAL.:9/", False),
                ("ws://exact.test:9/", False),
                ("ws://sub.exact.test/", True),
                ("ws://port.test:81/", False),
                ("ws://port.test:82/", True),
                ("ws://10.1.2.3:9/", False),
                ("ws://0x0a010203:9/", False),
                ("ws://[::ffff:10.1.2.3]:9/", False),
                ("ws://[fd00::1]:9/", False),
                ("ws://11.1.2.3/", True),
                ("ws://far.test/", True),
                (f"ws://127.0.0.1:{server.port}/", False),
                (f"ws://127.1:{server.port}/", False),
                (f"ws://localhost:{server.port}/", False),
                (f"ws://a.localhost:{server.port}/", False),
                (f"ws://near.test:{server.port}/", False),
                (f"ws://[::1]:{server.port}/", False),
            ):
                before = ledger.touched
                try:
                    # What goes to the proxy is waited for; of the others some are answered by nobody.
                    async with asyncio.timeout(60 if proxied else 0.5):
                        dialled: Any = await dial(dialler, url)
                        dialled.transport.abort()
                except (DialFailed, TimeoutError):
                    pass
                assert (ledger.touched > before) == proxied, url
            before = ledger.touched
            dialled = await dial(dialler, server.url, proxy=None)
            dialled.transport.abort()
            await failure(dial(dialler, "ws://feed.invalid/", proxy=None))
            await failure(dial(dialler, "ws://10.1.2.3/", proxy="other"))
            await failure(dial(dialler, server.url, proxy="other"))
            assert ledger.touched == before
            assert other.asked == ["10.1.2.3:80", f"127.0.0.1:{server.port}"], (
                "what is asked for by name is bypassed by nothing"
            )


async def test_a_proxy_that_the_configuration_no_longer_has_fails_the_dial() -> None:
    async with a_dialler() as dialler:
        failed = await failure(dial(dialler, "ws://feed.test/", proxy="corp"))
        assert failed.errors[0].err_code == ErrCode.PROXY_UNREACHABLE
        assert "'corp'" in failed.errors[0].message


async def test_settings_may_be_exchanged_while_it_dials() -> None:
    async with Ledger() as ledger, a_dialler() as dialler:
        settings = DialSettings(proxies={"p": ProxySettings(url=f"http://127.0.0.1:{ledger.port}")}, proxy="p")
        dialler.set_policy(EgressPolicy(), allow_insecure_tls=False, settings=settings)
        await failure(dial(dialler, "ws://feed.test/"))
        assert ledger.asked == ["feed.test:80"]
        dialler.set_policy(EgressPolicy(deny=["feed.test"]), allow_insecure_tls=False)
        assert (await failure(dial(dialler, "ws://feed.test/"))).policy, "the settings stay, the policy is new"


@pytest.mark.parametrize(
    "settings",
    [
        {"proxy": "absent"},
        {"proxies": {"p": ProxySettings(url="ftp://a:1")}},
        {"proxies": {"p": ProxySettings(url="socks5h://a:1", resolve="local")}},
        {"bypass": ["not a host"]},
        {"hosts": {"feed.test": ["feed.example"]}},
        {"hosts": {"feed.test": []}},
        {"hosts": {"a b": ["10.0.0.1"]}},
    ],
)
async def test_settings_that_mean_nothing_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Dialler(EgressPolicy(), settings=DialSettings(**settings))


async def test_a_name_that_the_configuration_does_not_have_names_the_nearest() -> None:
    """A handler, or a configuration that has changed since: a request is told before anything is begun."""
    settings = DialSettings(proxies={"corporate": ProxySettings(url="http://proxy.test:3128")})
    for asked, hint in (("corporat", "; did you mean 'corporate'?"), ("zzz", "")):
        with pytest.raises(DialFailed) as failure:
            Routes(settings).proxy_for(
                asked, Target(False, "feed.test", 80, False, "feed.test:80", "feed.test", "/"), []
            )
        assert failure.value.code == ErrCode.PROXY_UNREACHABLE
        assert failure.value.errors[0].message.endswith(f"[proxies] of the configuration has no {asked!r}{hint}")


async def test_the_name_of_a_proxy_may_stand_in_dial_hosts_too() -> None:
    async with Ledger() as ledger:
        url = f"http://proxy.test:{ledger.port}"
        hosts = {"proxy.test": ["127.0.0.1"]}
        async with a_dialler(proxies={"p": ProxySettings(url=url)}, hosts=hosts) as dialler:
            for proxy in ("p", ProxyRequest(url=url)):
                await failure(dial(dialler, "ws://10.0.0.1/", proxy=proxy))
            assert ledger.asked == ["10.0.0.1:80"] * 2
            failed = await failure(dial(dialler, "ws://10.0.0.1/", proxy="p", local_address="::1"))
            assert failed.errors[0].err_code == ErrCode.PROXY_UNREACHABLE
        async with a_dialler(EgressPolicy(deny=["127.0.0.0/8"]), hosts=hosts) as dialler:
            assert (await failure(dial(dialler, "ws://10.0.0.1/", proxy=ProxyRequest(url=url)))).policy
