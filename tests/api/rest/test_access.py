"""Who may come in: Host and Origin behind a proxy, and tokens that are taken back."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from mooring_api.rest.access import Access, own_hosts, token_hash
from mooring_api.rest.problems import Problem
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer

CONFIGURED = ["mooring.example", "other.example:8443", "Default.example:443"]


def refused(access: Access, host: str, origin: str | None) -> bool:
    headers = {"Host": host} if origin is None else {"Host": host, "Origin": origin}
    try:
        access.check_origin(make_mocked_request("POST", "/v1/connections", headers))
    except Problem as problem:
        return problem.status == 403
    return False


@pytest.mark.parametrize(
    ("host", "origin", "ours"),
    [
        ("mooring.example", "https://mooring.example", True),
        ("mooring.example", "http://mooring.example", True),
        ("other.example:8443", "https://other.example:8443", True),
        ("OTHER.example:8443", "HTTPS://other.EXAMPLE:8443", True),
        ("default.example", "https://default.example", True),
        ("127.0.0.1:8480", "https://mooring.example", True),  # a proxy that names itself to us
        ("127.0.0.1:8480", "http://127.0.0.1:8480", True),
        ("127.0.0.1:8480", "https://127.0.0.1:8480", False),  # nobody has said that TLS is in front
        ("mooring.example", "https://mooring.example:8443", False),
        ("other.example:8443", "https://other.example", False),
        ("mooring.example", "https://evil.example", False),
        ("mooring.example", "null", False),
        ("evil.example", "https://mooring.example", False),
        ("mooring.example:9999", "https://mooring.example", False),
    ],
)
def test_a_configured_host_is_ours_under_both_schemes_and_with_its_port_alone(
    host: str, origin: str, ours: bool
) -> None:
    access = Access("token", {}, own_hosts("127.0.0.1", 8480, secure=False), CONFIGURED)
    assert refused(access, host, origin) is not ours


@pytest.mark.parametrize(
    ("host", "origin", "ours"),
    [
        ("localhost", None, True),
        ("anything", None, True),  # curl --unix-socket PATH http://anything/
        ("Some_Name-1", None, True),
        ("localhost:8480", "http://localhost:8480", True),  # a page behind ssh -L 8480:PATH
        ("127.0.0.1:9999", "http://127.0.0.1:9999", True),
        ("[::1]:1", "http://[::1]:1", True),
        ("localhost:8480", "http://localhost:3000", False),  # another program's page on this machine
        ("localhost:8480", "https://localhost:8480", False),
        ("anything", "http://anything", False),
        ("anything:8480", None, False),  # a browser says the port of a tunnel
        ("evil.example", None, False),
        ("evil.example:8480", None, False),
        ("127.0.0.1.nip.io:8480", None, False),
        ("localhost.evil.example:8480", None, False),
        ("localhost:8480@evil.example", None, False),
        ("", None, False),
        ("mooring.example", "https://mooring.example", True),
    ],
)
def test_a_unix_socket_answers_to_plain_names_and_to_a_tunnels_and_to_no_other_page(
    host: str, origin: str | None, ours: bool
) -> None:
    access = Access("token", {}, frozenset(), CONFIGURED, unix=True)
    assert refused(access, host, origin) is not ours


@pytest.fixture
async def with_reader(start_service: StartService, tmp_path: Path) -> tuple[RunningService, Path]:
    config = tmp_path / "mooring.toml"
    config.write_text(
        f'[tokens.a]\nhash = "{token_hash("a-token")}"\nscopes = ["read", "send"]\n'
        f'[tokens.b]\nhash = "{token_hash("b-token")}"\nscopes = ["read", "send"]\n'
    )
    return await start_service("--config", str(config)), config


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def ends(response: aiohttp.ClientResponse) -> bool:
    """Read on until the body ends or is cut; say whether that was within a minute."""
    try:
        async with asyncio.timeout(60):
            while await response.content.readany():
                pass
    except aiohttp.ClientError:
        pass
    except TimeoutError:
        return False
    return True


async def test_streams_of_a_token_that_is_taken_back_end_and_those_of_others_go_on(
    with_reader: tuple[RunningService, Path], echo: EchoServer
) -> None:
    service, config = with_reader
    record = await service.open(echo.url)
    streams: dict[str, aiohttp.ClientResponse] = {}
    for token in ("a-token", "b-token", service.token):
        streams[token] = await service.client.get(
            "/v1/events", headers={**bearer(token), "Accept": "text/event-stream"}
        )
    lines = asyncio.Queue[bytes | None]()

    async def body() -> Any:
        while (line := await lines.get()) is not None:
            yield line

    sending = asyncio.create_task(
        service.client.post(
            f"/v1/connections/{record['id']}/messages",
            data=body(), headers={**bearer("a-token"), "Content-Type": "application/x-ndjson"},
        )
    )  # fmt: skip
    waiting = asyncio.create_task(
        service.client.get(
            "/v1/events?wait=60&kind=workerExited", headers={**bearer("a-token"), "Accept": "application/json"}
        )
    )
    await lines.put(b"1\n")
    await wait_for(lambda: echo.peers[0].received == ["1"])
    await wait_for(lambda: _subscribers(service, 4))
    text = config.read_text()
    config.write_text(text[text.index("[tokens.b]") :])
    service.process.send_signal(signal.SIGHUP)
    assert await ends(streams["a-token"])
    streams["a-token"].close()
    with pytest.raises(aiohttp.ClientError):
        await asyncio.wait_for(sending, 60)
    async with await asyncio.wait_for(waiting, 45) as response:
        assert response.status == 401, "it was cut off, and the client has asked once more"
    await service.send(record["id"], "after")
    for token in ("b-token", service.token):
        chunk = b""
        while b"onMessage" not in chunk:
            chunk += await asyncio.wait_for(streams[token].content.readany(), 60)
        streams[token].close()
    async with service.client.get("/v1/workers", headers=bearer("a-token")) as response:
        assert response.status == 401


async def _subscribers(service: RunningService, count: int) -> bool:
    async with service.client.get("/metrics") as response:
        return f"mooring_subscribers {count}.0" in await response.text()
