"""Whose state directory it is: root may look into another user's, and makes nothing in it; others are told."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.command_line import mooring
from tests.conftest import RunningService, StartService

OTHER = 54321
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files to another user")


@pytest.fixture
def of_another(tmp_path: Path) -> Iterator[RunningService]:
    """A state directory that a user without a name has, with a token and an address."""
    found = RunningService(tmp_path / "state")
    found.state_dir.mkdir(mode=0o700)
    for name, text in (("token", "the-token\n"), ("address", "http://127.0.0.1:9\n")):
        (found.state_dir / name).write_text(text)
        (found.state_dir / name).chmod(0o600)
    for path in (found.state_dir, *found.state_dir.iterdir()):
        os.chown(path, OTHER, OTHER)
    yield found
    assert {path.stat().st_uid for path in found.state_dir.iterdir()} == {OTHER}, "nothing was made in it"


@needs_root
async def test_root_may_ask_for_the_token_and_the_page_of_another_users_service(of_another: RunningService) -> None:
    ran = await mooring(of_another, "token")
    assert (ran.code, ran.out) == (0, "the-token\n"), ran.errors
    ran = await mooring(of_another, "console", "--json")
    assert json.loads(ran.out) == {"url": "http://127.0.0.1:9/#token=the-token"}


@needs_root
async def test_root_makes_no_token_for_another_user(of_another: RunningService) -> None:
    (of_another.state_dir / "token").unlink()
    ran = await mooring(of_another, "token")
    assert ran.code == 1 and "cannot be read: No such file" in ran.errors


@needs_root
async def test_whoever_would_make_files_in_it_is_told_whose_it_is(of_another: RunningService, tmp_path: Path) -> None:
    (tmp_path / "copy.db").touch()
    for arguments in (("serve", "--listen", "127.0.0.1:0"), ("restore", str(tmp_path / "copy.db"))):
        ran = await mooring(of_another, *arguments)
        assert ran.code == 1
        assert f"belongs to the user of id {OTHER}: do this as that user" in ran.errors, ran.errors


@needs_root
def test_another_user_is_told_that_it_is_not_his(of_another: RunningService) -> None:
    # Imported before the rights are gone: the environment of this test may be for root alone.
    program = (
        f"import os, sys, mooring_api.client, mooring_api.commands.connections; from mooring_api.commands.cli import main; "
        f"os.setgroups([]); os.setgid({OTHER + 1}); os.setuid({OTHER + 1}); main()"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, "--state-dir", str(of_another.state_dir), "ls"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ran.returncode == 1
    assert "may not be read by this user" in ran.stderr, ran.stderr


async def test_the_console_of_a_unix_socket_says_how_a_browser_gets_there(
    start_service: StartService, tmp_path: Path
) -> None:
    service = await start_service(listen=f"unix:{tmp_path}/an api.sock")
    ran = await mooring(service, "console")
    assert (ran.code, ran.out) == (1, "")
    assert ran.errors.count("\n") == 1
    assert "--listen HOST:PORT" in ran.errors and f"UNIX-CONNECT:'{tmp_path}/an api.sock'" in ran.errors
    assert service.token not in ran.errors


async def test_a_page_behind_a_tunnel_to_a_unix_socket_is_served(start_service: StartService, tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    service = await start_service(listen=f"unix:{path}")

    async def lead(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(str(path))
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    async with await asyncio.start_server(lead, "127.0.0.1", 0) as tunnel:
        url = f"http://localhost:{tunnel.sockets[0].getsockname()[1]}"
        headers = {"Authorization": f"Bearer {service.token}", "Origin": url, "Sec-Fetch-Site": "same-origin"}
        async with aiohttp.ClientSession() as client:
            async with client.put(f"{url}/v1/workers/main", headers=headers) as response:
                assert response.status == 201, await response.text()
            async with client.get(f"{url}/", headers={"Connection": "close"}) as response:
                assert "<title>mooring</title>" in await response.text()
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as client, client.get("http://anything/healthz") as response:
        assert response.status == 200


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
