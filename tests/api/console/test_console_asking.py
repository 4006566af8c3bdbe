"""What waits, what is asked, and at which step of its recipe a connection is, on the console."""

from __future__ import annotations

import asyncio
import os

import pytest
from aiohttp import web
from playwright.async_api import expect

from tests.api.console.test_console import Opened, opened, pytestmark, visit  # noqa: F401  # a fixture is named
from tests.conftest import RunningService
from tests.end_to_end.test_kept import status_of
from tests.scripted import Scripted
from tests.servers import EchoServer


async def test_a_connection_that_is_down_takes_messages_that_wait_and_can_be_dropped(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    kept = (await service.open(echo.url, reconnect={"minDelay": 3600, "maxDelay": 3600}, whenDown="queue"))["id"]
    await echo.sockets[0].close()
    await status_of(service, kept, "Reconnecting")
    await page.locator("#connections .row", has_text="Reconnecting").click()
    await expect(page.locator("#queue")).to_be_hidden()
    await page.locator("#send-text").fill("later")
    await page.locator("#send-form button").click()
    await expect(page.locator("#send-result")).to_have_text("waits to be sent, 5 bytes")
    await expect(page.locator("#queue-words")).to_have_text("1 message waits to be sent, 5 bytes.")
    await page.locator("#queue-drop").click()
    await expect(page.locator("#queue")).to_be_hidden()
    await expect(page.locator("#events .row", has_text="onUnsent")).to_contain_text("1 message, 5 bytes: dropped")
    assert opened.complaints == []


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "not kept"])
async def test_a_connection_that_opens_by_a_recipe_says_at_which_step_it_is(
    opened: Opened,  # noqa: F811
    service: RunningService,
    kept: bool,
) -> None:
    goes_on = asyncio.Event()

    async def takes_its_time(server: Scripted, socket: web.WebSocketResponse) -> None:
        await server.hear(socket)
        await socket.send_str("welcome")
        await server.hear(socket)
        await goes_on.wait()
        await socket.send_str("subscribed")
        await server.listen(socket)

    page = await visit(opened, service)
    steps = [{"send": "hello", "expect": "welcome"}, {"send": "subscribe", "expect": "subscribed", "timeout": 60}]
    async with Scripted(takes_its_time) as server:
        later = {"Prefer": "respond-async"}
        await service.open(server.url, recipe={"opening": steps}, reconnect=kept, status=202, request_headers=later)
        row = page.locator("#connections .row").first
        await expect(row).to_contain_text(" 2/2")
        await row.click()
        await expect(page.locator("#detail")).to_contain_text("the opening steps run (step 2 of 2).")
        if folder := os.environ.get("MOORING_SCREENSHOTS"):
            await page.screenshot(path=f"{folder}/opening-{kept}.png")
        goes_on.set()
        await expect(row).to_contain_text("Connected")
        await expect(row).not_to_contain_text("2/2")
    assert opened.complaints == []


async def test_the_box_asks_and_shows_the_reply_also_where_it_is_an_error(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    await service.open(echo.url)
    await page.locator("#connections .row").first.click()
    await expect(page.locator("#ask-form")).to_be_hidden()
    await service.open(echo.url, requests="cdp", worker="asks")
    await page.locator("#connections .row", has_text="asks").click()
    await page.locator("#ask-text").fill('{"result": 42')
    await page.locator("#ask-form button").click()
    await expect(page.locator("#ask-result.bad")).to_contain_text("JSON")
    await page.locator("#ask-text").fill('{"result": 42}')
    await page.locator("#ask-form button").click()
    await expect(page.locator("#ask-result")).to_contain_text("the reply came after ")
    await expect(page.locator("#ask-reply")).to_contain_text('"result": 42')
    await page.locator("#ask-text").fill('{"error": "no"}')
    await page.locator("#ask-form button").click()
    await expect(page.locator("#ask-result.bad")).to_contain_text("has answered with an error")
    await expect(page.locator("#ask-reply")).to_contain_text('"error": "no"')
