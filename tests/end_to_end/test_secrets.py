"""``${secret:NAME}``, through everything: on the wire alone, and only where it may go."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.command_line import mooring
from tests.conftest import ROOT, RunningService, StartService, files_in, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, status_of
from tests.servers import EchoServer

CODE = "tests.end_to_end.secret_code"
CANARY = "canary-d41d8cd98f00"


async def read_again(service: RunningService, words: str = "were read again") -> None:
    before = service.log().count(words)
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: service.log().count(words) > before, what=words)


def everything(service: RunningService) -> str:
    """Return all that the service has written anywhere."""
    return "\n".join([service.log(), *(content.decode("latin-1") for _, content in files_in(service.state_dir))])


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "token").write_text(f"{CANARY}-1\n")
    path = tmp_path / "mooring.toml"
    path.write_text(
        f'[secrets]\nown = "env:OWN_TOKEN"\nfeed = {{from = "file:{tmp_path}/token", hosts = ["127.0.0.1", "*.exchange.test"]}}\n'
        f'[handlers]\nLogsIn = "{CODE}:LogsIn"\nStrays = "{CODE}:Strays"\n[functions]\nopen_with_secret = "{CODE}:open_with_secret"\n'
    )
    return path


async def start(start_service: StartService, config: Path) -> RunningService:
    return await start_service(
        "--config",
        str(config),
        "--app-dir",
        str(ROOT),
        env={"OWN_TOKEN": f"{CANARY}-own", "SECRET_PLACE": "elsewhere.test"},
    )


async def test_a_secret_is_on_the_wire_alone_and_read_again_for_each_attempt(
    start_service: StartService, config: Path, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start(start_service, config)
    headers = {"Authorization": "Bearer ${secret:feed}", "X-Literal": "$${secret:feed}"}
    opened = await service.open(echo.url, headers=headers, reconnect={"minDelay": 0.05})
    assert opened["headers"] == {"Authorization": "***", "X-Literal": "***"}
    assert echo.peers[0].headers["Authorization"] == f"Bearer {CANARY}-1"
    assert echo.peers[0].headers["X-Literal"] == "${secret:feed}"

    (tmp_path / "token").write_text(f"{CANARY}-2\n")
    await service.call("POST", f"/v1/connections/{opened['id']}/reconnect", 200, headers={"Prefer": "wait=60"})
    assert echo.peers[1].headers["Authorization"] == f"Bearer {CANARY}-2"

    # Gone while it is needed: failed attempts that name the file, and no lock.
    (tmp_path / "token").unlink()
    await echo.sockets[1].close(code=1012)

    async def down() -> Any:
        record = await service.record(opened["id"])
        return record["down"] and record["down"]["errors"]

    errors = await wait_for(down)
    assert errors[0]["errCode"] == 113 and "token cannot be read" in errors[0]["message"]
    (tmp_path / "token").write_text(f"{CANARY}-3\n")
    await wait_for(lambda: len(echo.peers) == 3)
    assert echo.peers[2].headers["Authorization"] == f"Bearer {CANARY}-3"
    async with service.client.get("/metrics") as response:
        assert CANARY not in await response.text()
    assert CANARY not in everything(service)
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    await wait_for(lambda: len(echo.peers) == 4)
    assert echo.peers[3].headers["Authorization"] == f"Bearer {CANARY}-3", "its next process fills it, too"
    assert CANARY not in everything(service)


async def test_what_waits_to_be_sent_shows_nobody_a_secret(
    start_service: StartService, config: Path, echo: EchoServer, tmp_path: Path
) -> None:  # 43, with a queue
    service = await start(start_service, config)
    headers = {"Authorization": "Bearer ${secret:feed}", "X-Literal": f"{CANARY}-literal"}
    kept = (await service.open(echo.url, headers=headers, reconnect=STAYS_DOWN, whenDown="queue", name="feed"))["id"]
    await echo.sockets[0].close(code=1013)
    await status_of(service, kept, "Reconnecting")
    await service.send(kept, f"{CANARY}-payload", status=202)
    found = []
    for path in (f"connections/{kept}", "connections", f"connections/{kept}/events", "workers"):
        found.append(json.dumps(await service.get(f"/v1/{path}")))
    async with service.client.get("/metrics") as response:
        found.append(await response.text())
    assert 'mooring_queued_messages{worker="main"}' in found[-1]
    (tmp_path / "token").unlink()
    wrong = {"url": f"{echo.url}?token=${{secret:feed}}", "headers": {"X": "${secret:nobody}"}}
    found.append(json.dumps(await service.call("PATCH", f"/v1/connections/{kept}", 422, json=wrong)))
    async with service.client.post(f"/v1/connections/{kept}/messages?whenDown=fail", data="x") as response:
        found.append(await response.text())
        assert response.status == 409
    for command in (("show", "feed"), ("ls", "--json")):
        found.append((await mooring(service, *command)).out)
    for text in found:
        assert CANARY not in text
    assert f"{CANARY}-literal" not in everything(service) and f"{CANARY}-1" not in everything(service)


async def test_a_secret_does_not_go_where_it_is_not_bound(
    start_service: StartService, config: Path, echo: EchoServer
) -> None:
    service = await start(start_service, config)
    port = echo.port
    for url, name, more in (
        (f"ws://localhost:{port}/", "feed", {}),
        (echo.url, "own", {}),
        (f"ws://a.exchange.test:{port}/", "feed", {"addresses": ["127.0.0.2"]}),
    ):
        problem = await service.open(url, 403, headers={"X": f"${{secret:{name}}}"}, **more)
        assert problem["type"].endswith(":secret-not-allowed") and problem["secret"] == name
    # Nor by the name of a handler that uses it, nor from code.
    problem = await service.open(f"ws://localhost:{port}/", 403, handler={"name": "LogsIn"})
    assert problem["type"].endswith(":secret-not-allowed") and problem["host"] == "localhost"
    problem = await service.call(
        "POST",
        "/v1/workers/main/calls",
        422,
        json={"function": "open_with_secret", "params": [f"ws://localhost:{port}/"]},
    )
    assert problem["exception"].endswith("SecretNotAllowed")
    assert echo.handshakes == 0
    await service.open(f"ws://a.exchange.test:{port}/", addresses=["127.0.0.1"], headers={"X": "${secret:feed}"})
    await service.open(echo.url, handler={"name": "LogsIn"})
    assert [peer.headers.get("X") for peer in echo.peers] == [f"{CANARY}-1", f"{CANARY}-1"]


async def test_what_is_wrong_about_a_secret_is_told_and_nothing_is_begun(
    start_service: StartService, config: Path, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start(start_service, config)
    for value, words in (
        ("${secret:fed}", "did you mean 'feed'"),
        ("${secret:}", "is none of"),
        ("${secret:a", "not closed"),
    ):
        problem = await service.open(echo.url, 422, headers={"X-A": "1", "X-B": [value]})
        assert [error["pointer"] for error in problem["errors"]] == ["/headers/X-B"] and words in problem["detail"]
    (tmp_path / "token").unlink()
    problem = await service.open(echo.url, 422, headers={"X": "${secret:feed}"})
    assert "cannot be read" in problem["detail"] and problem["errors"][0]["pointer"] == "/headers/X"
    problem = await service.open(echo.url, 422, handler={"name": "Strays"})
    assert "no 'nobody'" in problem["detail"] and problem["errors"][0]["pointer"] == "/handler"
    assert (await service.get("/v1/connections?status=Connecting"))["connections"] == []
    assert echo.handshakes == 0


async def test_a_secret_that_is_not_there_refuses_a_start_and_a_reload(
    start_service: StartService, config: Path, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start(start_service, config)
    good = config.read_text()
    config.write_text(good + '[secrets.new]\nfrom = "env:NOT_SET_AT_ALL"\n')
    await read_again(service, "SIGHUP: nothing was changed")
    await wait_for(lambda: "secrets.new: the variable NOT_SET_AT_ALL is not set" in service.log())
    ran = await mooring(service, "check", "--config", str(config), "--app-dir", str(ROOT), env={"OWN_TOKEN": "x"})
    assert ran.code == 1
    assert "no  secret new: secrets.new: the variable NOT_SET_AT_ALL is not set" in ran.out
    with pytest.raises(AssertionError, match=r"secrets.own: the variable OWN_TOKEN is not set"):
        await start_service("--config", str(config), name="third")
    config.write_text(good + f'[secrets.new]\nfrom = "file:{tmp_path}/token"\nhosts = ["localhost"]\n')
    await read_again(service)
    await service.open(f"ws://localhost:{echo.port}/", headers={"X": "${secret:new}"})
    assert echo.peers[0].headers["X"] == f"{CANARY}-1"
