"""Proxies of the configuration: by name, as the default, past it, and what of them may change under running connections."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from mooring.errors import ErrCode
from mooring_api.client import Client
from tests.command_line import mooring
from tests.conftest import RunningService, StartService, wait_for
from tests.proxies import PASSWORD, USER, Microsocks, Tinyproxy
from tests.servers import EchoServer

NOWHERE = "192.0.2.1"  # RFC 5737: nobody has it
ELSEWHERE = "198.51.100.1"


async def _failed(service: RunningService, url: str, **options: Any) -> str:
    """Have a dial fail, within a second if nothing else is said; return what it says."""
    body = {"url": url, "connectTimeout": 1, **options}
    async with service.client.post("/v1/connections", json=body) as response:
        assert response.status in (502, 504), await response.text()
        return str((await response.json())["detail"])


async def _read_again(service: RunningService) -> None:
    before = service.log().count("were read again")
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: service.log().count("were read again") > before, what="the configuration is read again")


async def test_a_configured_proxy_needs_no_allow_and_opens_nothing_but_its_own_leg(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    async with Tinyproxy() as http, Microsocks() as socks:
        config = tmp_path / "mooring.toml"
        config.write_text(
            f'[egress]\nallow = ["feed.test"]\n[dial]\nhosts = {{ "feed.test" = ["127.0.0.1"] }}\n'
            f'[proxies.http]\nurl = "{http.url}"\n[proxies.socks]\nurl = "{socks.url}"\n'
        )
        service = await start_service("--config", str(config))
        url = f"ws://feed.test:{echo.port}/"
        for name in ("http", "socks"):
            record = await service.open(url, proxy=name)
            assert (record["status"], record["proxy"]) == ("Connected", name)
        for proxy in (http, socks):
            problem = await service.open(url, 403, proxy={"url": proxy.url})
            assert [ErrCode(error["errCode"]) for error in problem["errors"]] == [ErrCode.POLICY_REFUSED]
            await service.open(f"ws://127.0.0.1:{proxy.port}/", 403)
        assert http.log().count("CONNECT 127.0.0.1") == 1


async def test_the_default_proxy_is_not_taken_for_loopback_nor_where_null_or_bypass_say_so(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    async with Tinyproxy() as proxy:
        config = tmp_path / "mooring.toml"
        names = "".join(f'"{name}" = ["{ELSEWHERE}"]\n' for name in ("feed.test", "db.internal", "a.b.internal"))
        config.write_text(
            '[dial]\nbypass = ["*.internal", "one.test", "two.test:81", "203.0.113.0/24"]\n'
            f'[dial.hosts]\n{names}"one.test" = ["{ELSEWHERE}"]\n"two.test" = ["{ELSEWHERE}"]\n'
            f'[proxies.corp]\nurl = "{proxy.url}"\n'
        )
        service = await start_service("--config", str(config), env={"MOORING_DIAL_PROXY": "corp"})
        record = await service.open(echo.url)
        assert record["status"] == "Connected"
        assert "proxy" not in record, "a record shows what was asked for"
        direct = [
            ("ws://db.internal/", {}),
            ("ws://a.b.internal./", {}),
            ("ws://one.test/", {}),
            ("ws://two.test:81/", {}),
            ("ws://203.0.113.7/", {}),
            (f"ws://{NOWHERE}/", {"proxy": None}),
        ]
        for text in await asyncio.gather(*(_failed(service, url, **options) for url, options in direct)):
            assert "through proxy" not in text
        assert ": CONNECT " not in proxy.log()
        # The proxy is asked in any case; who it asks for does not answer, or is out of reach.
        long = {"connectTimeout": 5}
        through: list[tuple[str, dict[str, Any]]] = [
            (f"ws://{NOWHERE}/", long),
            ("ws://feed.test/", long),
            ("ws://two.test/", long),
            ("ws://db.internal/", {"proxy": "corp", **long}),
        ]
        for text in await asyncio.gather(*(_failed(service, url, **options) for url, options in through)):
            assert f"through proxy corp ({proxy.url})" in text
        await wait_for(lambda: all(f"CONNECT {host}:80" in proxy.log() for host in (NOWHERE, ELSEWHERE)))


async def test_the_environment_names_no_proxy(start_service: StartService, echo: EchoServer) -> None:
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY", "SOCKS_PROXY")
    nobody = {spelled: "http://127.0.0.1:1" for name in names for spelled in (name, name.lower())}
    service = await start_service(env={**nobody, "NO_PROXY": "", "no_proxy": ""})
    assert (await service.open(echo.url))["status"] == "Connected"
    assert "proxy" not in await _failed(service, f"ws://{NOWHERE}/")


async def test_a_password_in_a_file_and_the_proxies_themselves_are_exchanged_under_running_connections(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    password = tmp_path / "proxy.password"
    password.write_text("0ld-0ne\n")
    config = tmp_path / "mooring.toml"
    config.write_text("")
    service = await start_service("--config", str(config))
    running = await service.open(echo.url)
    async with Tinyproxy(auth=True) as proxy:
        problem = await service.open(echo.url, 422, proxy="corp")
        assert [(error["pointer"], "corp" in error["detail"]) for error in problem["errors"]] == [("/proxy", True)]
        config.write_text(f'[proxies.corp]\nurl = "{proxy.url}"\nusername = "{USER}"\npassword_file = "{password}"\n')
        await _read_again(service)
        problem = await service.open(echo.url, 422, proxy="crop")
        assert "did you mean 'corp'?" in problem["errors"][0]["detail"]
        problem = await service.open(echo.url, 502, proxy="corp")
        assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.PROXY_AUTH_FAILED
        password.write_text(f"{PASSWORD}\n")
        assert (await service.open(echo.url, proxy="corp"))["status"] == "Connected"
        password.unlink()
        problem = await service.open(echo.url, 502, proxy="corp")
        assert "its password cannot be had: the file" in problem["detail"]
        # The same by a secret; it is bound to no host, and what a request opens uses the proxy by its name alone.
        password.write_text(f"{PASSWORD}\n")
        config.write_text(
            f'[secrets]\ncorp = "file:{password}"\n'
            f'[proxies.corp]\nurl = "{proxy.url}"\nusername = "{USER}"\npassword = "${{secret:corp}}"\n'
        )
        await _read_again(service)
        assert (await service.open(echo.url, proxy="corp"))["status"] == "Connected"
        config.write_text(f'[proxies.corp]\nurl = "{proxy.url}"\nusername = "{USER}"\npassword = "${{secret:corp}}"\n')
        service.process.send_signal(signal.SIGHUP)
        await wait_for(lambda: "nothing was changed: proxies.corp.password: [secrets] has no 'corp'" in service.log())
        config.write_text('[dial]\nproxy = "corp"\n')
        service.process.send_signal(signal.SIGHUP)
        await wait_for(lambda: "nothing was changed: dial.proxy" in service.log(), what="a fault is told")
        shown = f"{service.log()} {service.worker_log()} {await service.get('/v1/connections')}"
        assert PASSWORD not in shown and "0ld-0ne" not in shown
    await service.send(running["id"], "still here")


@pytest.mark.parametrize("proxy", [True, False])
async def test_tls_that_is_not_verified_is_refused_with_a_proxy_as_with_a_server(
    shared: RunningService, proxy: bool
) -> None:
    tls = {"verify": False}
    options = {"proxy": {"url": "https://127.0.0.1:1", "tls": tls}} if proxy else {"tls": tls}
    problem = await shared.open("wss://127.0.0.1:1/", 403, **options)
    assert f"{'proxy.' if proxy else ''}tls.verify false is refused" in problem["detail"]


async def test_the_client_passes_on_how_is_dialled_and_reads_it_back(shared: RunningService, echo: EchoServer) -> None:
    async with Microsocks() as socks, Client(shared.url, token=shared.token) as client:
        record = await client.open(echo.url, proxy={"url": socks.url}, localAddress="127.0.0.2", family="ipv4")
        assert (record.proxy, record.local_address, record.family) == (socks.url, "127.0.0.2", "ipv4")
        assert record.addresses is UNSET, "nobody said any"


async def test_a_record_shows_what_was_asked_for_and_only_then(shared: RunningService, echo: EchoServer) -> None:
    asked = {"addresses": ["127.0.0.1"], "family": "ipv4", "localAddress": "127.0.0.2", "proxy": None}
    given = await shared.open(f"ws://feed.test:{echo.port}/", **asked)
    assert {name: given[name] for name in asked} == asked
    plain = await shared.open(echo.url)
    assert not set(asked) & set(plain)
    async with Microsocks(auth=True) as socks:
        proxy = {"url": socks.url, "username": USER, "password": PASSWORD}
        record = await shared.open(echo.url, proxy=proxy)
        assert record["proxy"] == socks.url
        assert USER not in str(record) and PASSWORD not in str(record)


async def test_the_command_line_dials_as_it_is_told(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    async with Tinyproxy() as http, Microsocks() as socks:
        config = tmp_path / "mooring.toml"
        config.write_text(f'[proxies.corp]\nurl = "{http.url}"\n')
        service = await start_service("--config", str(config))
        url = f"ws://feed.test:{echo.port}/"
        for said, shown in (
            (("--proxy", "corp"), "corp"),
            (("--proxy", socks.url), socks.url),
            (("--proxy", f'{{"url": "{socks.url}", "resolve": "local"}}'), socks.url),
            ((), None),
        ):
            options = (*said, "--resolve", f"feed.test:{echo.port}:127.0.0.1", "--interface", "127.0.0.3")
            ran = await mooring(service, "open", url, *options, "--json")
            record = json.loads(ran.out)
            assert (record["status"], record.get("proxy")) == ("Connected", shown), ran.errors
            assert (record["addresses"], record["localAddress"]) == (["127.0.0.1"], "127.0.0.3")
        ran = await mooring(service, "open", url, "--resolve", f"fed.test:{echo.port}:127.0.0.1")
        assert ran.code == 2 and f"the URL has feed.test:{echo.port}" in ran.errors
