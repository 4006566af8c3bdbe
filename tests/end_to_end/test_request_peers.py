"""Requests over connections to real peers of others, by a preset alone: Chromium's DevTools, and an Ethereum node."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import RunningService, wait_for
from tests.end_to_end.test_kept import status_of
from tests.end_to_end.test_requests import ask
from tests.real_servers import Ganache, RealServer


class Chromium(RealServer):
    """A browser without a window, whose DevTools listen."""

    program = "chromium"

    def prepare(self) -> list[str]:
        return [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--remote-debugging-port={self.port}", f"--user-data-dir={self.folder / 'profile'}", "about:blank",
        ]  # fmt: skip

    async def devtools(self) -> str:
        """Return the URL of the browser's own target; it is another one in each life."""

        async def look() -> str | None:
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"http://127.0.0.1:{self.port}/json/version") as response,
                ):
                    found: str = (await response.json(content_type=None))["webSocketDebuggerUrl"]
                    return found
            except (OSError, aiohttp.ClientError):
                return None

        return await wait_for(look, what="DevTools")


async def test_devtools_answer_and_a_browser_that_is_started_anew_is_asked_again(service: RunningService) -> None:
    async with Chromium() as chromium:
        url = await chromium.devtools()
        opened = await service.open(url, requests="cdp", dataType="object", reconnect={"minDelay": 0.1, "maxDelay": 0.5,
                                    "retryStatuses": [404, "5xx"]}, maxMessageSize=16_000_000)  # fmt: skip
        connection = opened["id"]
        version = await ask(service, connection, {"method": "Browser.getVersion"}, query="?timeout=60")
        assert "Chrome/" in version["reply"]["result"]["product"]
        targets = await asyncio.gather(
            *(ask(service, connection, {"method": "Target.createTarget", "params": {"url": "about:blank"}}, query="?timeout=60")
              for _ in range(5))
        )  # fmt: skip
        assert len({one["reply"]["result"]["targetId"] for one in targets}) == 5, "each has its own reply"
        wrong = await ask(service, connection, {"method": "Browser.fly"}, 502, "?timeout=60")
        assert wrong["type"].endswith(":peer-error") and "Browser.fly" in json.dumps(wrong["reply"]["error"])
        await chromium.stop()
        await status_of(service, connection, "Reconnecting")
        assert (await ask(service, connection, {"method": "Browser.getVersion"}, 409))[
            "connectionStatus"
        ] == "Reconnecting"
        await chromium.start()
        again = await chromium.devtools()
        await service.call("PATCH", f"/v1/connections/{connection}", 200, json={"url": again})
        # It may have come back by itself already: what is asked next is asked over the socket that this brings.
        await service.call("POST", f"/v1/connections/{connection}/reconnect", 200, headers={"Prefer": "wait=60"})
        found = await ask(service, connection, {"method": "Browser.getVersion"}, query="?timeout=60")
        assert found["reply"]["id"] > wrong["reply"]["id"], "ids count up over all sockets"


async def test_an_ethereum_node_answers_many_at_a_time(service: RunningService, tmp_path: Path) -> None:
    async with Ganache() as node:
        connection = (await service.open(node.url, requests="jsonrpc", reconnect=True))["id"]

        def rpc(method: str, *params: Any) -> dict[str, Any]:
            return {"jsonrpc": "2.0", "method": method, "params": list(params)}

        chain = await ask(service, connection, rpc("eth_chainId"), query="?timeout=60")
        assert chain["reply"]["result"].startswith("0x") and chain["reply"]["id"] == 1
        blocks = await asyncio.gather(
            *(
                ask(service, connection, rpc("eth_getBlockByNumber", hex(0), False), query="?timeout=60")
                for _ in range(50)
            )
        )
        assert len({one["reply"]["id"] for one in blocks}) == len({one["event"] for one in blocks}) == 50
        wrong = await ask(service, connection, rpc("eth_nonsense"), 502, "?timeout=60")
        assert wrong["type"].endswith(":peer-error") and "eth_nonsense" in wrong["reply"]["error"]["message"]
        await node.stop()
        await status_of(service, connection, "Reconnecting")
        await node.start()
        await status_of(service, connection, "Connected")
        assert (await ask(service, connection, rpc("eth_chainId"), query="?timeout=60"))["reply"]["id"] > 51
