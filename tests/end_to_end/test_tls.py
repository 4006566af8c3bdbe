"""TLS on both sides: private CAs and client certificates for connections, and the API behind a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from pathlib import Path

import aiohttp
import pytest

from mooring.errors import ErrCode
from tests.certificates import Files, make_files, server_context
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import RawConnection, RawServer, frame

WITH_AUTHORITIES = {"SSL_CERT_FILE": None}  # those of the machine: see conftest
SERVICE = ((), WITH_AUTHORITIES)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return make_files(tmp_path_factory.mktemp("tls"))


async def _greets(connection: RawConnection) -> None:
    await connection.accept(after=frame(1, b"over TLS"))
    await connection.read_close()


async def test_a_private_ca_is_trusted_only_where_it_is_named(shared: RunningService, files: Files) -> None:
    async with RawServer(_greets, tls=server_context(files)) as server:
        problem = await shared.open(server.url, 502)
        assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.TLS_FAILED
        assert "certificate" in problem["detail"]
        record = await shared.open(server.url, tls={"caFile": files.ca})
        events = await shared.events(record["id"], count=2)
        assert events[1]["event"]["data"] == "over TLS"
        assert record["verify"] is True


async def test_a_file_that_is_exchanged_counts_from_the_next_dial(
    shared: RunningService, files: Files, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(Path(files.client_cert).read_bytes())
    async with RawServer(_greets, tls=server_context(files)) as server:
        await shared.open(server.url, 502, tls={"caFile": str(ca)})
        ca.write_bytes(Path(files.ca).read_bytes())
        await shared.open(server.url, tls={"caFile": str(ca)})


async def test_the_name_in_the_certificate_must_be_the_one_that_is_dialled(
    shared: RunningService, files: Files
) -> None:
    async with RawServer(_greets, tls=server_context(files)) as server:
        url = server.url.replace("127.0.0.1", "127.0.0.2")
        problem = await shared.open(url, 502, tls={"caFile": files.ca})
        assert problem["type"] == "urn:mooring:problem:connect-failed"


async def test_a_client_certificate_is_shown_where_it_is_asked_for(shared: RunningService, files: Files) -> None:
    async with RawServer(_greets, tls=server_context(files, client_needed=True)) as server:
        await shared.open(server.url, 502, tls={"caFile": files.ca})
        tls = {"caFile": files.ca, "certFile": files.client_cert, "keyFile": files.client_key}
        record = await shared.open(server.url, tls=tls)
        await shared.events(record["id"], count=2)


async def test_files_that_cannot_be_used_are_an_error_of_the_dial(shared: RunningService, files: Files) -> None:
    async with RawServer(_greets, tls=server_context(files)) as server:
        for tls in ({"caFile": "/nowhere/ca.pem"}, {"caFile": files.server_key}):
            problem = await shared.open(server.url, 502, tls=tls)
            assert ErrCode(problem["errors"][0]["errCode"]) is ErrCode.TLS_FAILED


async def test_verify_false_needs_the_configuration_and_shows_in_the_record(
    start_service: StartService, files: Files
) -> None:
    async with RawServer(_greets, tls=server_context(files)) as server:
        strict = await start_service(env=WITH_AUTHORITIES)
        problem = await strict.open(server.url, 403, tls={"verify": False})
        assert problem["type"] == "urn:mooring:problem:address-refused"
        lax = await start_service(name="lax", env={**WITH_AUTHORITIES, "MOORING_EGRESS_ALLOW_INSECURE_TLS": "true"})
        record = await lax.open(server.url, tls={"verify": False})
        assert record["verify"] is False


async def test_the_api_behind_a_certificate(start_service: StartService, files: Files) -> None:
    service = await start_service(
        "--tls-cert", files.server_cert, "--tls-key", files.server_key, listen="127.0.0.1:0"
    )  # fmt: skip
    assert service.url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=files.ca)
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {service.token}"}
        async with session.get(f"{service.url}/v1/workers", headers=headers, ssl=context) as response:
            assert response.status == 200
        origin = {**headers, "Origin": service.url.replace("https", "http")}
        async with session.get(f"{service.url}/v1/workers", headers=origin, ssl=context) as response:
            assert response.status == 403, "the page of http:// is another origin"


async def test_a_client_that_never_finishes_its_tls_handshake_is_cut_off_like_one_without_a_head(
    start_service: StartService, files: Files
) -> None:
    service = await start_service(
        "--tls-cert", files.server_cert, "--tls-key", files.server_key,
        listen="127.0.0.1:0", env={"MOORING_API_REQUEST_TIMEOUT": "1"},
    )  # fmt: skip
    silent, writer = await asyncio.open_connection("127.0.0.1", service.port)
    assert await asyncio.wait_for(silent.read(), 30) == b"", "the default of the library is a minute"
    writer.close()


async def test_handshakes_that_are_only_begun_use_up_places_and_no_more_than_these(
    start_service: StartService, files: Files
) -> None:
    service = await start_service(
        "--tls-cert", files.server_cert, "--tls-key", files.server_key,
        listen="127.0.0.1:0", env={"MOORING_API_MAX_REQUESTS": "20", "MOORING_API_REQUEST_TIMEOUT": "30"},
    )  # fmt: skip
    before = len(os.listdir(f"/proc/{service.process.pid}/fd"))
    begun = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(200)]
    ends = [asyncio.create_task(_end(reader)) for reader, _ in begun]
    await wait_for(lambda: sum(end.done() for end in ends) >= 180)
    assert sum(end.done() for end in ends) == 180, "as many as there may be connections wait for their hello"
    await wait_for(lambda: len(os.listdir(f"/proc/{service.process.pid}/fd")) <= before + 21)  # and what accepts
    await asyncio.wait_for(asyncio.gather(*ends), 60)
    headers = {"Authorization": f"Bearer {service.token}"}
    async with aiohttp.ClientSession() as session:
        context = ssl.create_default_context(cafile=files.ca)
        async with session.get(f"{service.url}/v1/workers", headers=headers, ssl=context) as response:
            assert response.status == 200
    for _, writer in begun:
        writer.close()


async def _end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionResetError):
        await reader.read()
