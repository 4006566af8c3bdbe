"""Hooks through the default proxy, of each kind: what goes through it, what past it, and what is said when it is gone."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Files, make_files, server_context
from tests.conftest import RunningService, StartService, wait_for
from tests.proxies import PASSWORD, USER, Microsocks, ProxyProcess, Squid, Stunnel, Tinyproxy
from tests.receiver import Receiver, hook
from tests.servers import EchoServer

ELSEWHERE = "198.51.100.1"  # RFC 5737: nobody has it
QUICK = {"delay": 0.1, "maxDelay": 1}


async def _proxy(running: AsyncExitStack, kind: str, auth: bool, files: Files) -> ProxyProcess:
    if kind in ("tinyproxy", "microsocks"):
        return await running.enter_async_context({"tinyproxy": Tinyproxy, "microsocks": Microsocks}[kind](auth=auth))
    squid: ProxyProcess = await running.enter_async_context(Squid(auth=auth, hosts={"shop.test": "127.0.0.1"}))
    if kind == "squid":
        return squid
    return await running.enter_async_context(Stunnel(squid, files.server_cert, files.server_key))


def _configuration(proxy: ProxyProcess, files: Files, hosts: dict[str, str]) -> str:
    credentials = f'username = "{USER}"\npassword = "{PASSWORD}"\n' if proxy.auth else ""
    tls = f'tls = {{ ca_file = "{files.ca}" }}\n' if proxy.scheme == "https" else ""
    known = ", ".join([f'"{name}" = ["{address}"]' for name, address in hosts.items()])
    return (
        f'[delivery]\nallow_plain = true\n[proxies.corp]\nurl = "{proxy.url}"\n{credentials}{tls}'
        f'[dial]\nproxy = "corp"\nhosts = {{ {known} }}\n'
    )


@pytest.mark.parametrize(
    ("kind", "auth"),
    [("tinyproxy", False), ("squid", True), ("stunnel", False), ("microsocks", True)],
    ids=lambda value: value if isinstance(value, str) else "with credentials" if value else "open",
)
async def test_hooks_go_through_the_default_proxy(
    start_service: StartService, tmp_path: Path, echo: EchoServer, kind: str, auth: bool
) -> None:
    files = make_files(tmp_path, "shop.test", "127.0.0.1")
    async with AsyncExitStack() as running:
        proxy = await _proxy(running, kind, auth, files)
        plain = await running.enter_async_context(Receiver())
        secure = await running.enter_async_context(Receiver(tls=server_context(files)))
        hosts = {"near.test": "127.0.0.1", "away.test": ELSEWHERE}
        way: dict[str, str] = {}
        if kind in ("tinyproxy", "microsocks"):
            # They know no name of ours; what we know to be on loopback goes past a default proxy, so they are named.
            hosts["shop.test"], way = "127.0.0.1", {"proxy": "corp"}
        config = tmp_path / "mooring.toml"
        config.write_text(_configuration(proxy, files, hosts))
        config.chmod(0o600)
        service = await start_service("--config", str(config))
        more = {"after": "start", "retry": QUICK}
        await hook(service, "loopback", plain.url, **more)  # goes past it
        await hook(service, "direct", f"http://near.test:{plain.port}/", **more, proxy=None)
        made = await hook(service, "through", f"http://shop.test:{plain.port}/", **more, **way)
        assert made.get("proxy") == way.get("proxy")
        tls = {"caFile": files.ca}
        await hook(service, "secure", f"https://shop.test:{secure.port}/", **more, **way, tls=tls)
        await hook(service, "away", f"http://away.test:{plain.port}/", after="start", timeout=1, retry=QUICK)
        await service.open(echo.url)
        for name in ("loopback", "direct", "through", "secure"):
            await wait_for(lambda name=name: _delivered(service, name, 2))
        assert await wait_for(lambda: _has_failed(service, "away"))
        proxy.kill()
        await service.open(echo.url)
        for name in ("loopback", "direct"):
            await wait_for(lambda name=name: _delivered(service, name, 3))
        for name in ("through", "secure", "away"):
            await wait_for(lambda name=name: _says_that_the_proxy_is_away(service, name))
        assert all([(await service.get(f"/v1/hooks/{name}"))["delivered"] == 2 for name in ("through", "secure")]), (
            "and nothing goes past it then"
        )
        assert PASSWORD not in json.dumps([await service.get("/v1/hooks"), service.log()])


async def _says_that_the_proxy_is_away(service: RunningService, name: str) -> bool:
    attempt = await _has_failed(service, name)
    return attempt is not None and "corp" in attempt["error"]


async def _delivered(service: RunningService, name: str, count: int) -> bool:
    return bool((await service.get(f"/v1/hooks/{name}"))["delivered"] == count)


async def _has_failed(service: RunningService, name: str) -> Any:
    found = (await service.get(f"/v1/hooks/{name}/attempts?limit=1"))["attempts"]
    return found[0] if found and found[0]["status"] is None else None
