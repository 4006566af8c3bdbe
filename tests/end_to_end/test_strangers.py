"""Strangers: requests that are no HTTP, that come from elsewhere, that bear no token, that never end, that are too many."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mooring_api.rest.access import token_hash
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer

SERVICE = (("--function", "f=json:loads"), {"MOORING_LIMITS_MAX_BODY_BYTES": "1000000"})


GOOD = '"url":"ws://127.0.0.1:9/"'


def host(service: RunningService) -> bytes:
    return service.url.removeprefix("http://").encode()


async def raw(service: RunningService, request: bytes, *, wait_s: float = 60.0) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(65536), wait_s)
    finally:
        writer.close()


def get(service: RunningService, *headers: str, path: str = "/v1/workers", version: str = "1.1") -> bytes:
    lines = [
        f"GET {path} HTTP/{version}",
        *(header.format(host=host(service).decode(), token=service.token) for header in headers),
    ]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1")


@pytest.mark.parametrize("key", ["", "x" * 256, "a b", "a\tb", "ä", "\x7f"])
async def test_idempotency_keys_that_are_refused(shared: RunningService, key: str) -> None:
    body = b"{" + GOOD.encode() + b"}"
    answer = await raw(
        shared,
        b"POST /v1/connections HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n"
        b"Idempotency-Key: %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
        % (host(shared), shared.token.encode(), key.encode("utf-8"), len(body), body),
    )
    assert answer.startswith(b"HTTP/1.1 400") or answer.startswith(b"HTTP/1.0 400"), answer[:200]


STRANGERS = [
    ("no token", ["Host: {host}"], 401),
    ("wrong token", ["Host: {host}", "Authorization: Bearer nope"], 401),
    ("empty token", ["Host: {host}", "Authorization: Bearer "], 401),
    ("token of another kind", ["Host: {host}", "Authorization: Basic {token}"], 401),
    ("token that is not ASCII", ["Host: {host}", "Authorization: Bearer tök\xffen"], 401),
    ("token twice", ["Host: {host}", "Authorization: Bearer {token}", "Authorization: Bearer {token}"], 401),
    ("token as a cookie", ["Host: {host}", "Cookie: token={token}"], 401),
    ("another host", ["Host: evil.example", "Authorization: Bearer {token}"], 403),
    ("another port", ["Host: 127.0.0.1:1", "Authorization: Bearer {token}"], 403),
    ("host with a dot", ["Host: {host}.", "Authorization: Bearer {token}"], 403),
    ("host of a rebinding page", ["Host: 127.0.0.1.nip.io", "Authorization: Bearer {token}"], 403),
    ("two hosts", ["Host: {host}", "Host: evil.example", "Authorization: Bearer {token}"], 403),
    ("no host", ["Authorization: Bearer {token}"], 403),
    ("origin of another site", ["Host: {host}", "Origin: https://evil.example", "Authorization: Bearer {token}"], 403),
    ("origin null", ["Host: {host}", "Origin: null", "Authorization: Bearer {token}"], 403),
    ("origin of another port", ["Host: {host}", "Origin: http://127.0.0.1:1", "Authorization: Bearer {token}"], 403),
    ("cross-site fetch", ["Host: {host}", "Sec-Fetch-Site: cross-site", "Authorization: Bearer {token}"], 403),
    ("same-site fetch", ["Host: {host}", "Sec-Fetch-Site: same-site", "Authorization: Bearer {token}"], 403),
    ("the page itself", ["Host: {host}", "Origin: http://{host}", "Sec-Fetch-Site: same-origin", "Authorization: Bearer {token}"], 200),
    ("localhost", ["Host: localhost:{port}", "Authorization: Bearer {token}"], 200),
]  # fmt: skip


@pytest.mark.parametrize(("name", "headers", "status"), STRANGERS, ids=[row[0] for row in STRANGERS])
async def test_who_is_let_in(shared: RunningService, name: str, headers: list[str], status: int) -> None:
    headers = [header.replace("{port}", str(shared.port)) for header in headers]
    answer = await raw(shared, get(shared, *headers))
    # No Host, or two of them, does not get past aiohttp's parser: 400 in plain text, documented in SECURITY.md.
    allowed = {str(status).encode(), *({b"400"} if "host" in name else ())}
    assert answer.split(b" ")[1] in allowed, answer[:300]
    if status == 401:
        assert b"WWW-Authenticate: Bearer" in answer
    assert shared.token.encode() not in answer


async def test_absolute_form_and_http_1_0_without_a_host_are_refused(shared: RunningService) -> None:
    auth = "Authorization: Bearer {token}"
    answer = await raw(shared, get(shared, "Host: {host}", auth, path="http://evil.example/v1/workers"))
    assert b" 403 " in answer.split(b"\r\n")[0] or b" 400 " in answer.split(b"\r\n")[0]
    answer = await raw(shared, get(shared, auth, version="1.0"))
    assert b" 403 " in answer.split(b"\r\n")[0]


async def test_a_token_in_the_query_is_no_token(shared: RunningService) -> None:
    answer = await raw(shared, get(shared, "Host: {host}", path=f"/v1/workers?token={shared.token}"))
    assert b" 401 " in answer.split(b"\r\n")[0]


async def test_a_token_of_a_megabyte_is_refused_by_the_parser(shared: RunningService) -> None:
    answer = await raw(shared, get(shared, "Host: {host}", "Authorization: Bearer " + "x" * 1_000_000))
    assert b" 431 " in answer.split(b"\r\n")[0]
    assert b"Python" not in answer and b"aiohttp/" not in answer, "no version banner"
    assert "xxxxxxxxxx" not in shared.log(), "what was sent is not logged"


@pytest.mark.parametrize(
    "head",
    [
        "GET /v1/workers HTTP/1.1\r\nHost: {host}\r\nX-Long: " + "secret" * 2_000,
        "GET /v1/workers?" + "secret" * 2_000 + " HTTP/1.1\r\nHost: {host}",
        "GET /v1/workers HTTP/1.1\r\nHost: {host}\r\n" + "\r\n".join(f"X-{n}: secret" for n in range(500)),
    ],
    ids=["a long header", "a long request line", "500 headers"],
)
async def test_headers_that_are_too_large_are_a_problem_with_431(shared: RunningService, head: str) -> None:
    answer = await raw(shared, head.replace("{host}", host(shared).decode()).encode() + b"\r\n\r\n")
    assert answer.split(b" ")[1] == b"431", answer[:200]
    assert b"Content-Type: application/problem+json" in answer
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["type"] == "urn:mooring:problem:headers-too-large"
    assert b"secret" not in answer, "what was sent is not quoted"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
        b"GET /secret-in-a-path\xff HTTP/1.1\r\nBad Header: hunter2\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_not_logged(shared: RunningService, request_bytes: bytes) -> None:
    answer = await raw(shared, request_bytes)
    assert b" 400 " in answer.split(b"\r\n")[0] or b" 403 " in answer.split(b"\r\n")[0] or answer == b""
    assert answer == b"" or b"application/problem+json" in answer
    assert b"hunter2" not in answer and "hunter2" not in shared.log()


async def test_bad_chunks_and_a_lying_length_are_refused(shared: RunningService) -> None:
    head = b"POST /v1/connections HTTP/1.1\r\nHost: %b\r\nAuthorization: Bearer %b\r\nContent-Type: application/json\r\n" % (host(shared), shared.token.encode())  # fmt: skip
    answer = await raw(shared, head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n")[0]
    answer = await raw(shared, head + b"Content-Length: 10\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert b" 400 " in answer.split(b"\r\n")[0]


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_chunk_that_is_none_behind_good_ones_is_refused_without_waiting_for_more(
    shared: RunningService, echo: EchoServer, kind: str
) -> None:
    one = (await shared.open(echo.url))["id"]
    head = f"POST /v1/connections/{one}/messages HTTP/1.1\r\nHost: {host(shared).decode()}\r\nContent-Type: {kind}\r\n"
    head += f"Authorization: Bearer {shared.token}\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(head.encode())
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"2\r\n7\n\r\n")

    async def is_sent() -> bool:
        return (await shared.record(one))["stats"]["messagesOut"] == 1

    if kind.endswith("ndjson"):
        await wait_for(is_sent)
    writer.write(b"zz\r\n")
    answer = await asyncio.wait_for(reader.read(), 120)
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert answer.count(b"HTTP/1.1") == 1, "one answer, and the end"
    told = json.loads(answer.split(b"\r\n\r\n", 1)[1])
    assert told["detail"] == "the body's chunks cannot be parsed"
    assert told.get("sent") == (1 if kind.endswith("ndjson") else None)
    assert (await shared.record(one))["stats"]["messagesOut"] == (told.get("sent") or 0)


async def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(shared: RunningService) -> None:
    for path in ("connections", "connections/1/messages"):
        head = f"POST /v1/{path} HTTP/1.1\r\nHost: {host(shared).decode()}\r\nAuthorization: Bearer {shared.token}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
        writer.write(head.encode())
        status = await asyncio.wait_for(reader.readline(), 60)
        assert status.split()[1] == b"413", status
        writer.close()


async def test_a_half_sent_request_is_cut_off(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_API_REQUEST_TIMEOUT": "0.5"})

    async def is_closed_after(part: bytes) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        writer.write(part)
        assert await asyncio.wait_for(reader.read(), 30) is not None, "the connection is closed"
        writer.close()

    parts = (b"", b"GET /v1/wor", b"GET /v1/workers HTTP/1.1\r\nHost: x\r\n")
    await asyncio.gather(*map(is_closed_after, parts))


async def test_more_connections_than_allowed_are_closed(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_API_MAX_REQUESTS": "5"})
    held = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(8)]
    reading = [asyncio.create_task(reader.read(1)) for reader, _ in held]
    await wait_for(lambda: sum(task.done() for task in reading) >= 3)
    assert all(task.result() == b"" for task in reading if task.done()), "they are closed"
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)
    for _, writer in held:
        writer.close()


async def test_more_workers_and_connections_than_allowed_are_refused(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(
        env={"MOORING_LIMITS_MAX_WORKERS": "1", "MOORING_LIMITS_MAX_CONNECTIONS_PER_WORKER": "2"}
    )
    for _ in range(2):
        await service.open(echo.url)
    assert (await service.open(echo.url, 429))["setting"] == "limits.max_connections_per_worker"
    assert (await service.open(echo.url, 429, worker="other"))["setting"] == "limits.max_workers"
    assert (await service.call("PUT", "/v1/workers/other", 429))["setting"] == "limits.max_workers"


async def test_more_subscribers_than_allowed_are_refused(start_service: StartService) -> None:
    service = await start_service(env={"MOORING_LIMITS_MAX_SUBSCRIBERS": "2"})
    held = [await service.client.get("/v1/events", headers={"Accept": "text/event-stream"}) for _ in range(2)]
    async with service.client.get("/v1/events", headers={"Accept": "text/event-stream"}) as response:
        assert response.status == 429
        assert (await response.json())["setting"] == "limits.max_subscribers"
        assert response.headers["Retry-After"]
    assert (await service.get("/v1/events?wait=1", 429))["setting"] == "limits.max_subscribers"
    assert (await service.get("/v1/events"))["events"] == [], "a page that does not wait is no stream"
    for response in held:
        response.close()


async def test_proxies_and_netrc_of_the_environment_are_not_used(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login someone password hunter2\n")
    proxy = "http://127.0.0.1:1/"
    env = {"HTTP_PROXY": proxy, "http_proxy": proxy, "ALL_PROXY": proxy, "NETRC": str(tmp_path / "netrc")}
    service = await start_service(env=env)
    await service.open(echo.url)
    assert "Authorization" not in echo.peers[0].headers
    assert "Cookie" not in echo.peers[0].headers


async def test_named_tokens_have_scopes(start_service: StartService, echo: EchoServer, tmp_path: Any) -> None:
    config = tmp_path / "mooring.toml"
    config.write_text(
        "".join(
            f'[tokens.{scope}]\nhash = "{token_hash(scope + "-token")}"\nscopes = ["{scope}"]\n'
            for scope in ("read", "send", "manage")
        )
    )
    service = await start_service("--config", str(config))
    record = await service.open(echo.url)
    message = ("POST", f"/v1/connections/{record['id']}/messages", {"data": b"x"})
    requests = {
        "read": ("GET", "/v1/connections", {}),
        "send": message,
        "manage": ("DELETE", "/v1/connections/99", {}),
    }
    for token in requests:
        for needed, (method, path, options) in requests.items():
            headers = {"Authorization": f"Bearer {token}-token", "Content-Type": "text/plain"}
            async with service.client.request(method, path, headers=headers, **options) as response:
                assert (response.status == 403) is (token != needed), (token, needed, response.status)


async def test_no_secret_is_anywhere_but_where_it_belongs(service: RunningService, echo: EchoServer) -> None:
    secret, query = "s3cr3t-value", "qu3ry-value"
    record = await service.open(f"{echo.url}?key={query}", headers={"Authorization": secret, "Cookie": f"a={secret}"})
    await service.open(f"ws://127.0.0.1:1/?key={query}", 502, headers={"Authorization": secret})
    await service.open("ws://127.0.0.1:9/#" + query, 422, headers={"A": secret + "\n"})
    await service.call("DELETE", f"/v1/connections/{record['id']}")
    pages = json.dumps(await service.get("/v1/events?after=start")) + json.dumps(await service.get("/v1/workers"))
    logs = service.log() + service.worker_log()
    process = "".join(
        Path(f"/proc/{pid}/{name}").read_text(errors="replace")
        for pid in [service.process.pid, *service.worker_pids()]
        for name in ("cmdline", "environ")
    )
    async with service.client.get("/metrics") as response:
        metrics = await response.text()
    for place in (pages, logs, process, metrics):
        for hidden in (secret, query, service.token):
            assert hidden not in place
    assert query in json.dumps(await service.get("/v1/connections")), "the url is in its own record"
    assert (service.state_dir / "token").stat().st_mode & 0o777 == 0o600
    assert service.state_dir.stat().st_mode & 0o777 == 0o700


async def test_listening_for_strangers_needs_tls_or_a_flag(tmp_path: Any) -> None:
    command = [
        sys.executable,
        "-m",
        "mooring_api",
        "serve",
        "--listen",
        "0.0.0.0:0",
        "--state-dir",
        str(tmp_path / "s"),
    ]
    run = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert "tls_cert" in run.stderr and "Traceback" not in run.stderr


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """The path of a socket, short enough for one."""
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        yield Path(folder) / "api.sock"


async def test_a_unix_socket_serves_the_same_api(socket_path: Path, start_service: StartService) -> None:
    service = await start_service(listen=f"unix:{socket_path}")
    connector = aiohttp.UnixConnector(str(socket_path))
    async with aiohttp.ClientSession(connector=connector) as session:
        headers = {"Authorization": f"Bearer {service.token}"}
        async with session.get("http://localhost/v1/workers", headers=headers) as response:
            assert response.status == 200
        async with session.get("http://evil.example/v1/workers", headers=headers) as response:
            assert response.status == 403
    await service.stop()


async def test_the_service_has_logged_no_traceback(shared: RunningService) -> None:
    assert "Traceback" not in shared.log(), shared.log()[-3000:]


@pytest.mark.parametrize(
    ("line", "extra"),
    [("CONNECT example.com:443", b""), ("CONNECT /v1/workers", b""), ("OPTIONS *", b""), ("OPTIONS /v1/workers", b""),
     ("GET http://example.com/", b""), ("GET /v1/workers", b"Expect: miracles\r\n")],
)  # fmt: skip
async def test_what_is_no_request_for_a_path_is_a_problem_too(shared: RunningService, line: str, extra: bytes) -> None:
    token = f"Authorization: Bearer {shared.token}\r\n".encode()
    request = (
        line.encode() + b" HTTP/1.1\r\nHost: " + host(shared) + b"\r\n" + token + extra + b"Connection: close\r\n\r\n"
    )
    head, _, body = (await raw(shared, request)).partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head, head
    assert head.split(b" ")[1][:1] == b"4"
    assert json.loads(body)["type"].startswith("urn:mooring:problem:")


async def test_expect_100_continue_is_answered_before_the_body(shared: RunningService) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", shared.port)
    writer.write(
        b"POST /v1/connections HTTP/1.1\r\nHost: " + host(shared) + b"\r\nAuthorization: Bearer "
        + shared.token.encode() + b"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n"
        b"Expect: 100-continue\r\n\r\n"
    )  # fmt: skip
    assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60) == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert b" 422 " in await asyncio.wait_for(reader.readline(), 60)
    writer.close()
