"""The receivers that api/HOOKS.md shows, each run as it stands: they take what is signed for them, and refuse what is not."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import RunningService, wait_for
from tests.documented import program
from tests.proxies import free_port
from tests.receiver import Receiver, hook
from tests.servers import EchoServer

START_S = 60.0  # `npm install`
BUILD_S = 300.0  # `go build` of the standard library, too


def _commands(language: str, tmp_path: Path, secret: Path, port: int) -> list[str]:
    """Return how the receiver is run; skip where its runtime, or its library, cannot be had."""
    if language == "python":
        return [sys.executable, str(program("api/HOOKS.md", "receiver.py", tmp_path)), str(secret), str(port)]
    if language == "php":
        php = shutil.which("php") or pytest.skip("no php here: its receiver is not run")
        page = program("api/HOOKS.md", "receiver.php", tmp_path)
        return [php, "-S", f"127.0.0.1:{port}", str(page)]
    if language == "node":
        if shutil.which("npm") is None:
            pytest.skip("no npm here: the receiver in Node is not run")
        page = program("api/HOOKS.md", "receiver.mjs", tmp_path)
        made = subprocess.run(
            ["npm", "install", "--no-audit", "--no-fund", "standardwebhooks@1"], cwd=tmp_path, capture_output=True,
            text=True, check=False, timeout=START_S,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"npm cannot have standardwebhooks here: {made.stderr[-200:]}")
        return ["node", str(page), str(secret), str(port)]
    go = shutil.which("go") or pytest.skip("no go here: its receiver is not run")
    page = program("api/HOOKS.md", "receiver.go", tmp_path)
    env = {**os.environ, "GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOCACHE": str(tmp_path / "cache")}
    subprocess.run([go, "build", "-o", "receiver", page.name], cwd=tmp_path, env=env, check=True, timeout=BUILD_S)
    return [str(tmp_path / "receiver"), str(secret), str(port)]


@pytest.mark.timeout(600)  # of which most is for what is built
@pytest.mark.parametrize("language", ["python", "node", "php", "go"])
async def test_the_receiver_of_the_page_takes_what_is_signed_and_refuses_what_is_not(
    shared: RunningService, echo: EchoServer, worker: str, tmp_path: Path, language: str
) -> None:
    port, secret = free_port(), tmp_path / "secret"
    made = await hook(
        shared, worker, f"http://127.0.0.1:{port}/", workers=[worker], retry={"delay": 0.1, "maxDelay": 1}
    )
    secret.write_text(made["secret"] + "\n")
    command = await asyncio.to_thread(_commands, language, tmp_path, secret, port)
    out = (tmp_path / "out").open("wb")
    receiver = await asyncio.create_subprocess_exec(
        *command, cwd=tmp_path, stdout=out, stderr=out, env={**os.environ, "SECRET_FILE": str(secret)}
    )
    try:
        record = await shared.open(f"{echo.url}push?count=20", worker=worker)
        await shared.send(record["id"], "ünïcödé 🎈")
        blob = await shared.open(echo.url, worker=worker, dataType="blob")
        await shared.send(blob["id"], bytes(range(256)), "application/octet-stream")

        async def taken() -> bool:
            return (await shared.get(f"/v1/hooks/{worker}"))["delivered"] >= 25

        await wait_for(taken, what="what was posted is taken")
        if language == "python":
            with sqlite3.connect(tmp_path / "events.db") as database:
                assert database.execute("SELECT count(*) FROM events").fetchone()[0] >= 25
            database.close()
        await hook(shared, f"{worker}-other", f"http://127.0.0.1:{port}/", workers=[worker], paused=True)
        tested = await wait_for(lambda: _tested(shared, f"{worker}-other"))
        assert tested["status"] == 401, "it is signed with another secret"
    finally:
        receiver.kill()
        await receiver.wait()
        out.close()
        for name in (worker, f"{worker}-other"):
            await shared.call("DELETE", f"/v1/hooks/{name}", None)


async def test_the_line_of_openssl_on_the_page_prints_the_signature(
    shared: RunningService, echo: EchoServer, worker: str, tmp_path: Path
) -> None:
    openssl = shutil.which("openssl") or pytest.skip("no openssl here: the page's line is not run")
    assert openssl
    async with Receiver() as receiver:
        made = await hook(shared, worker, receiver.url, workers=[worker])
        record = await shared.open(echo.url, worker=worker)
        await shared.send(record["id"], "ünïcödé 🎈")
        await receiver.until(3)
    got = receiver.got[-1]
    (tmp_path / "secret").write_text(made["secret"] + "\n")
    (tmp_path / "body").write_bytes(got.body)
    script = program("api/HOOKS.md", "check.sh", tmp_path)
    env = {**os.environ, "id": got.id, "timestamp": got.headers["webhook-timestamp"]}
    ran = subprocess.run(["sh", str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert f"v1,{ran.stdout.strip()}" == got.headers["webhook-signature"]
    await shared.call("DELETE", f"/v1/hooks/{worker}")


async def _tested(shared: RunningService, name: str) -> dict[str, object] | None:
    async with shared.client.post(f"/v1/hooks/{name}/test") as response:
        return await response.json() if response.status == 200 else None
