"""Connections through proxies, asked for over the API: what a record, an event and a log show, and a proxy that dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from mooring.errors import ErrCode
from tests.certificates import make_files
from tests.conftest import RunningService, wait_for
from tests.proxies import PASSWORD, USER, Microsocks, Stunnel, Tinyproxy
from tests.servers import EchoServer

PER_KIND = 20


async def test_a_connection_through_a_proxy_is_one_like_any_other(shared: RunningService, echo: EchoServer) -> None:
    async with Tinyproxy(auth=True) as http, Microsocks() as socks:
        for proxy in ({"url": http.url, "username": USER, "password": PASSWORD}, {"url": socks.url}):
            record = await shared.open(f"{echo.url}?n=1", proxy=proxy)
            await shared.send(record["id"], "hello")
            events = await shared.events(record["id"], count=2)
            assert [event["event"].get("data") for event in events] == [None, "hello"]
            final = await shared.call("DELETE", f"/v1/connections/{record['id']}")
            assert final["terminate"]["wasClean"] is True
            assert PASSWORD not in f"{record} {final} {await shared.events(record['id'], until='onTerminate')}"
        await wait_for(lambda: ": CONNECT " in http.log())


async def test_a_password_that_a_proxy_refuses_is_shown_nowhere(shared: RunningService, echo: EchoServer) -> None:
    async with Tinyproxy(auth=True) as proxy:
        asked = {"url": proxy.url, "username": USER, "password": "n0t-that-0ne"}
        problem = await shared.open(f"{echo.url}?token=qu3ry", 502, proxy=asked)
        assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.PROXY_AUTH_FAILED
        assert f"127.0.0.1:{echo.port} through proxy {proxy.url}" in problem["detail"]
        record = await shared.record(problem["connection"])
        events = await shared.events(problem["connection"], until="onTerminate")
        assert [event["kind"] for event in events] == ["onError", "onTerminate"]
        shown = f"{problem} {events} {shared.log()} {shared.worker_log()}"
        for secret in ("n0t-that-0ne", "qu3ry"):
            assert secret not in shown
        assert "n0t-that-0ne" not in str(record)
    assert echo.handshakes == 0


async def test_what_a_request_may_not_say_of_a_proxy_is_422(shared: RunningService) -> None:
    for proxy, pointer in (
        ({"url": "socks5h://127.0.0.1:1"}, "/proxy/url"),
        ({"url": "http://127.0.0.1"}, "/proxy/url"),
        ({"url": "http://u:s3cr3t@127.0.0.1:1"}, "/proxy/url"),
        ({"url": "http://127.0.0.1:1", "username": "u", "password": "s3cr3t\r\nX: y"}, "/proxy/password"),
    ):
        problem = await shared.open("ws://127.0.0.1:1/", 422, proxy=proxy)
        assert [error["pointer"] for error in problem["errors"]] == [pointer]
        assert "s3cr3t" not in str(problem)


async def test_through_a_proxy_that_a_request_names_the_policy_decides_on_the_target(shared: RunningService) -> None:
    async with Tinyproxy() as proxy:
        for url in ("ws://169.254.169.254/", "ws://[::ffff:169.254.169.254]/", "ws://0xa9fea9fe/"):
            problem = await shared.open(url, 403, proxy={"url": proxy.url})
            assert problem["type"] == "urn:mooring:problem:address-refused"
        problem = await shared.open("ws://feed.test/", 403, proxy={"url": proxy.url, "resolve": "proxy"})
        assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.POLICY_REFUSED
        assert "Request (file descriptor" not in proxy.log(), "nothing but the look whether it listens has reached it"


async def test_addresses_and_the_local_address(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(
        f"ws://feed.test:{echo.port}/", addresses=["127.0.0.1"], localAddress="127.0.0.2", family="ipv4"
    )
    assert record["status"] == "Connected"
    assert echo.peers[-1].headers["Host"] == f"feed.test:{echo.port}"


async def test_a_proxy_that_dies_under_load_ends_each_connection_once_and_harms_nothing_else(
    shared: RunningService, echo: EchoServer, tmp_path: Path
) -> None:
    files = make_files(tmp_path)
    direct = await shared.open(echo.url)
    async with (
        Tinyproxy() as http,
        Microsocks() as socks,
        Tinyproxy() as behind,
        Stunnel(behind, files.server_cert, files.server_key) as https,
    ):
        ways = [{"url": http.url}, {"url": socks.url}, {"url": https.url, "tls": {"caFile": files.ca}}]
        opened = await asyncio.gather(*(shared.open(echo.url, proxy=way) for way in ways for _ in range(PER_KIND)))
        await wait_for(lambda: behind.log().count(": CONNECT ") == PER_KIND)
        worker = await shared.get("/v1/workers/main")
        sends = [asyncio.create_task(shared.send(record["id"], "x" * 10_000, status=None)) for record in opened]
        for proxy in (http, socks, https):
            proxy.kill()
        await asyncio.gather(*sends)
        for record in opened:
            events = await shared.events(record["id"], until="onTerminate")
            ends = [event["event"] for event in events if event["kind"] == "onTerminate"]
            assert [(end["code"], end["wasClean"]) for end in ends] == [(1006, False)]
    await shared.send(direct["id"], "still here")
    assert (await shared.get("/v1/workers/main"))["pid"] == worker["pid"]
    await shared.call("DELETE", f"/v1/connections/{direct['id']}")
    await wait_for(lambda: not any(not each.gone.is_set() for each in echo.peers))
