"""Where hooks may not post to, what may not be asked for, and receivers that answer as none should."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import make_files, server_context
from tests.command_line import run
from tests.conftest import RunningService, StartService, wait_for
from tests.receiver import Receiver, hook
from tests.servers import EchoServer


def _secret(size: int) -> str:
    return "whsec_" + base64.b64encode(b"x" * size).decode()


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"url": "http://shop.example/"}, "/url"),
        ({"url": "https://user:pass@shop.example/"}, "/url"),
        ({"url": "https://shop.example/#part"}, "/url"),
        ({"url": "https://shop.example/?***"}, "/url"),
        ({"url": "ftp://shop.example/"}, "/url"),
        ({"url": "https://"}, "/url"),
        ({"url": "https://shop.example:0/"}, "/url"),
        ({"url": "https://shop.example/\r\nX: y"}, "/url"),
        ({"url": "https://shop.example/" + "x" * 8_000}, "/url"),
        ({"secret": _secret(23)}, "/secret"),
        ({"secret": _secret(65)}, "/secret"),
        ({"secret": "whsec_*"}, "/secret"),
        ({"maxEvents": 1_001}, "/maxEvents"),
        ({"maxEvents": 0}, "/maxEvents"),
        ({"format": "event", "maxEvents": 2}, "/maxEvents"),
        ({"kinds": ["onMessage", "onNothing"]}, "/kinds/1"),
        ({"connections": [0]}, "/connections/0"),
        ({"connections": ["a b"]}, "/connections/0"),
        ({"connections": list(range(1, 1_002))}, "/connections"),
        ({"workers": ["no name"]}, "/workers"),
        ({"after": "yesterday"}, "/after"),
        ({"after": "00000000-5"}, "/after"),
        ({"retry": {"delay": 30, "maxDelay": 10}}, "/retry/delay"),
        ({"retry": {"delay": 0.01}}, "/retry/delay"),
        ({"maxBytes": 1_000}, "/maxBytes"),
        ({"maxEventBytes": 1_000}, "/maxEventBytes"),
        ({"linger": 61}, "/linger"),
        ({"timeout": 0.5}, "/timeout"),
        ({"refused": "drop"}, "/refused"),
        ({"headers": {"webhook-id": "x"}}, "/headers/webhook-id"),
        ({"headers": {"Content-Type": "x"}}, "/headers/Content-Type"),
        ({"headers": {"User-Agent": "x"}}, "/headers/User-Agent"),
        ({"headers": {"Mooring-Next": "x"}}, "/headers/Mooring-Next"),
        ({"headers": {"X": "a\r\nb"}}, "/headers/X"),
        ({"headers": {"X": "***"}}, "/headers/X"),
        ({"headers": {"X": ["a", "***"]}}, "/headers/X"),
        ({"tls": {"caFile": "relative.pem"}}, "/tls/caFile"),
        ({"proxy": "nobody"}, "/proxy"),
        ({"proxy": {"url": "socks4://x:1"}}, "/proxy/url"),
        ({"nonsense": 1}, "/nonsense"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_not_valid_is_told_with_its_place(
    shared: RunningService, body: dict[str, Any], pointer: str
) -> None:
    problem = await hook(
        shared, "bad", body.get("url", "https://shop.example/"), 422, **{k: v for k, v in body.items() if k != "url"}
    )
    assert pointer in [error["pointer"] for error in problem["errors"]], problem
    assert "user:pass" not in str(problem)
    await shared.get("/v1/hooks/bad", 404)


@pytest.mark.parametrize(
    ("verb", "body", "pointer"),
    [
        ("secrets", {"secret": _secret(23)}, "/secret"),
        ("secrets", {"secret": _secret(65)}, "/secret"),
        ("secrets", {"secret": "whsec_c2hvcnQ="}, "/secret"),
        ("secrets", {"expiresIn": -1}, "/expiresIn"),
        ("secrets", {"expiresIn": 10_000_000}, "/expiresIn"),
        ("cursor", {"after": "00000000-5"}, "/after"),
        ("cursor", {"after": "yesterday"}, "/after"),
        ("cursor", {}, ""),
        ("skip", {"through": 5}, "/through"),
        ("pause", {"reason": "x" * 201}, "/reason"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_asked_of_a_hook_and_is_not_valid_is_told_and_changes_nothing(
    shared: RunningService, worker: str, verb: str, body: dict[str, Any], pointer: str
) -> None:
    before = await hook(shared, worker, "http://127.0.0.1:9/", paused=True)
    problem = await shared.call("POST", f"/v1/hooks/{worker}/{verb}", 422, json=body)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert str(body.get("secret", "whsec_never")) not in str(problem), "a secret is quoted nowhere"
    after = await shared.call("DELETE", f"/v1/hooks/{worker}")
    assert {key: before[key] for key in ("cursor", "generation", "secrets", "reason")} == {
        key: after[key] for key in ("cursor", "generation", "secrets", "reason")
    }


@pytest.mark.parametrize("name", ["a.b", "-a", "a" * 64, "a%20b", "%C3%A4"])
async def test_a_name_that_is_none_is_told(shared: RunningService, name: str) -> None:
    from yarl import URL

    problem = await shared.call(
        "PUT", URL(f"{shared.url}/v1/hooks/{name}", encoded=True).raw_path, 422, json={"url": "https://x.test/"}
    )  # type: ignore[arg-type]
    assert problem["errors"][0]["pointer"] == "path:hook"


async def test_null_is_the_same_as_absent_but_for_the_proxy(shared: RunningService) -> None:
    nothing = dict.fromkeys(
        ("workers", "kinds", "after", "maxEvents", "headers", "secret", "paused", "tls", "retry", "proxy")
    )
    record = await hook(shared, "nulls", "http://127.0.0.1:9/", **nothing)
    assert (record["kinds"], record["maxEvents"], record["proxy"]) == ([], 500, None)
    same = await hook(shared, "nulls", "http://127.0.0.1:9/", 200, **nothing)
    assert same["generation"] == 1
    problem = await hook(shared, "nulls", "http://127.0.0.1:9/", 422, secret=_secret(32))
    assert problem["errors"][0]["pointer"] == "/secret"
    await hook(shared, "nulls", "http://127.0.0.1:9/", 422, after="start")
    await shared.call("DELETE", "/v1/hooks/nulls")


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]", "0xa9fea9fe", "2852039166",
        "0251.0376.0251.0376", "[fd00:ec2::254]", "100.100.100.200", "192.0.0.192", "0.0.0.0", "[::]", "224.0.0.1", "[fe80::1]",
    ],
)  # fmt: skip
async def test_denied_addresses_are_refused_at_once_in_every_spelling(shared: RunningService, host: str) -> None:
    problem = await hook(shared, "denied", f"https://{host}/latest", 403)
    assert problem["type"].endswith("address-refused")


async def test_mooring_itself_is_refused_in_every_spelling(shared: RunningService) -> None:
    for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0x7f.1"):
        scheme = "http" if host in ("127.0.0.1", "localhost") else "https"
        problem = await hook(shared, "own", f"{scheme}://{host}:{shared.port}/v1/connections", 403)
        assert "mooring's own address" in problem["detail"]


async def test_a_name_that_is_moved_into_a_denied_network_reaches_nothing(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    async with Receiver() as canary:
        config = tmp_path / "mooring.toml"
        hosts = {"moved.test": "127.0.0.1", "own.test": "127.0.0.1"}
        lines = ", ".join(f'"{name}" = ["{address}"]' for name, address in hosts.items())
        config.write_text(f'[delivery]\ndeny = ["127.0.0.0/8"]\nallow_plain = true\n[dial]\nhosts = {{ {lines} }}\n')
        service = await start_service("--config", str(config))
        await hook(service, "moved", f"http://moved.test:{canary.port}/", after="start")
        await hook(service, "literal", canary.url, 403)
        await service.open(echo.url)  # [egress] does not deny it
        record = await wait_for(lambda: _failing(service, "moved"))
        assert record["reason"] == "policy" and not canary.got and canary.connections == 0
        config.write_text(f"[delivery]\nallow_plain = true\n[dial]\nhosts = {{ {lines} }}\n")
        service.process.send_signal(1)
        await wait_for(lambda: "were read again" in service.log())
        await service.call("POST", "/v1/hooks/moved/retry")
        await canary.until(2)
        await hook(service, "own", f"http://own.test:{service.port}/", after="start")
        assert (await wait_for(lambda: _failing(service, "own")))["reason"] == "policy"


async def _failing(service: RunningService, name: str) -> dict[str, Any] | None:
    record = await service.get(f"/v1/hooks/{name}")
    return record if record["status"] == "Failing" else None


async def test_the_lists_of_egress_and_of_delivery_open_nothing_of_each_other(
    start_service: StartService, tmp_path: Path, echo: EchoServer
) -> None:
    async with Receiver() as receiver:
        config = tmp_path / "mooring.toml"
        config.write_text(
            '[egress]\nallow = ["feed.test"]\n[delivery]\nallow = ["shop.test"]\nallow_plain = true\n'
            '[dial]\nhosts = { "feed.test" = ["127.0.0.1"], "shop.test" = ["127.0.0.1"] }\n'
        )
        service = await start_service("--config", str(config))
        await hook(service, "shop", f"http://shop.test:{receiver.port}/", after="start")
        await service.open(f"ws://feed.test:{echo.port}/")
        await receiver.until(2)
        await service.open(f"ws://shop.test:{echo.port}/", 403)
        await hook(service, "feed", f"http://feed.test:{receiver.port}/", after="start")
        assert (await wait_for(lambda: _failing(service, "feed")))["reason"] == "policy"


async def test_from_api_false_leaves_hooks_to_the_configuration(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_DELIVERY_FROM_API": "false"})
    problem = await hook(service, "shop", "http://127.0.0.1:9/", 403)
    assert "from_api" in problem["detail"]


async def _attempted(service: RunningService, name: str) -> Any:
    return (await service.get(f"/v1/hooks/{name}"))["lastAttempt"]


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _raw(serve: Serve) -> AsyncIterator[str]:
    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        server.close()


async def _trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.3)


async def _never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def _huge(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 500 No\r\nContent-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        writer.write(b"z" * 1_000_000)
        await writer.drain()


async def _headers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: y\r\n" % at for at in range(10_000)) + b"\r\n")
    await writer.drain()


async def _switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n" + b"z" * 100)
    await writer.drain()


async def _nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\x01 no http at all\r\n\r\n")
    await writer.drain()


@pytest.mark.parametrize(
    "serve", [_trickle, _never, _huge, _headers, _switch, _nonsense], ids=lambda serve: serve.__name__
)
async def test_an_answer_without_end_or_sense_is_bounded_and_takes_nothing(
    shared: RunningService, echo: EchoServer, worker: str, serve: Serve
) -> None:
    async with _raw(serve) as url:
        await hook(shared, worker, url, workers=[worker], timeout=1, retry={"delay": 0.1, "maxDelay": 1})
        before = _rss(shared)
        await shared.open(echo.url, worker=worker)

        async def tried() -> Any:
            found = (await shared.get(f"/v1/hooks/{worker}/attempts"))["attempts"]
            return found if len(found) >= 3 else None

        attempts = await wait_for(tried)
        assert all(attempt["status"] in (None, 500, 101) and attempt["error"] for attempt in attempts)
        assert all(attempt["ms"] < 20_000 for attempt in attempts), "bounded by its timeout, and not by what comes"
        assert _rss(shared) - before < 32_000_000, "of a gigabyte"
        record = await shared.call("DELETE", f"/v1/hooks/{worker}")
        assert record["delivered"] == 0


def _rss(service: RunningService) -> int:
    text = Path(f"/proc/{service.process.pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) * 1024


async def test_an_error_page_is_read_no_further_and_shown_nowhere(
    shared: RunningService, echo: EchoServer, worker: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 500 canary-reason\r\nContent-Length: 11\r\nX-A: canary-head\r\n\r\ncanary-body")
        await writer.drain()

    async with _raw(serve) as url:
        await hook(shared, worker, url, workers=[worker])
        await shared.open(echo.url, worker=worker)
        await wait_for(lambda: _attempted(shared, worker))
        texts = [
            await shared.get(f"/v1/hooks/{worker}"),
            await shared.get(f"/v1/hooks/{worker}/attempts"),
            shared.log(),
        ]
        assert "canary" not in str(texts)
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_tls_is_verified_and_a_private_authority_is_named(
    shared: RunningService, echo: EchoServer, worker: str, tmp_path: Path
) -> None:
    files = make_files(tmp_path, "localhost", "127.0.0.1")
    async with Receiver(tls=server_context(files)) as receiver:
        url = f"https://127.0.0.1:{receiver.port}/"
        retry = {"delay": 0.1, "maxDelay": 1}
        await hook(shared, worker, url, workers=[worker], retry=retry)
        await shared.open(echo.url, worker=worker)
        attempt = await wait_for(lambda: _attempted(shared, worker))
        assert "certificate" in attempt["error"] and not receiver.got
        made = await hook(shared, worker, url, 200, workers=[worker], retry=retry, tls={"caFile": files.ca})
        assert made["tls"]["caFile"] == files.ca
        await receiver.until(2)
        await hook(shared, worker, url, 403, workers=[worker], tls={"verify": False})
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def test_check_says_what_is_wrong_with_a_file_of_secrets(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("whsec_short\n")
    config = tmp_path / "mooring.toml"
    config.write_text(f'[hooks.shop]\nurl = "https://shop.example/"\nsecret_file = "{tmp_path}/secret"\n')
    ran = await run("--state-dir", str(tmp_path / "state"), "check", "--config", str(config))
    assert ran.code == 1 and "hook shop" in ran.out and "line 1" in ran.out and "short" not in ran.out
