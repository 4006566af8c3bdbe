"""Kept connections on the console: what is down and until when, its buttons, and the gap among the events."""

from __future__ import annotations

import os

from playwright.async_api import expect

from tests.api.console.test_console import Opened, opened, pytestmark, texts, visit  # noqa: F401  # a fixture is named
from tests.conftest import RunningService
from tests.end_to_end.test_kept import STAYS_DOWN, status_of
from tests.servers import EchoServer


async def test_one_that_is_down_says_until_when_and_why_and_can_be_dialled_or_stopped(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    kept = (await service.open(echo.url, reconnect=STAYS_DOWN))["id"]
    await service.open(echo.url)
    await echo.sockets[0].close(code=1001, message=b"deploying")
    await status_of(service, kept, "Reconnecting")
    row = page.locator("#connections .row", has_text="Reconnecting")
    await expect(row).to_contain_text("Reconnecting 1st in ")
    await expect(page.locator("#totals")).to_contain_text("1 down")
    await row.click()
    words = page.locator("#detail-words")
    await expect(words).to_contain_text("Socket 1 was lost at ")
    await expect(words).to_contain_text("Last error: Deploying. The 1st attempt is in ")
    await expect(page.locator("#send-form")).to_be_hidden()
    await expect(page.locator("#terminate")).to_have_text("Stop")
    if folder := os.environ.get("MOORING_SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/down.png")
    await page.locator("#reconnect").click()
    await expect(words).to_contain_text("socket 2 since ")
    await expect(words).to_contain_text("It came back once, and was down for ")
    await expect(page.locator("#send-form")).to_be_visible()
    gap = page.locator("#events .row.gap")
    await expect(gap).to_have_count(2)
    assert "messages may be missing since " in (await texts(page))[0]
    await expect(page.locator("#events .row", has_text="onDisconnect")).to_contain_text(
        "socket 1, peer: 1001 deploying"
    )
    if folder := os.environ.get("MOORING_SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/back.png")
    await page.locator("#terminate").click()
    await expect(words).to_contain_text("Closed normally")
    await expect(page.locator("#detail-actions")).to_be_hidden()
    assert opened.complaints == []


async def test_one_that_is_not_kept_has_no_button_for_a_new_socket(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    await service.open(echo.url)
    await page.locator("#connections .row").first.click()
    await expect(page.locator("#terminate")).to_have_text("Terminate")
    await expect(page.locator("#reconnect")).to_be_hidden()


async def test_one_that_has_never_been_ready_says_so_and_its_last_error(
    opened: Opened,  # noqa: F811
    service: RunningService,
) -> None:
    page = await visit(opened, service)
    await service.open("ws://127.0.0.1:1/", 202, reconnect={"first": "retry", **STAYS_DOWN})
    await page.locator("#connections .row", has_text="Connecting 2nd in ").click()
    words = page.locator("#detail-words")
    await expect(words).to_contain_text("It has not been ready yet. Last error: 127.0.0.1:1 refused the connection.")
    await expect(words).to_contain_text("The 2nd attempt is in ")
    if folder := os.environ.get("MOORING_SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/never.png")


async def test_a_name_stands_beside_the_url_and_finds_its_connection(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    await service.open(echo.url, name="prices")
    await service.open(echo.url)
    await expect(page.locator("#connections .row", has_text=f"prices · {echo.url}")).to_have_count(1)
    await page.fill("#connection-filter", "price")
    await expect(page.locator("#connections .row:visible")).to_have_count(1)
    assert opened.complaints == []


async def test_the_form_opens_one_that_stays_under_a_name(
    opened: Opened,  # noqa: F811
    service: RunningService,
    echo: EchoServer,
) -> None:
    page = await visit(opened, service)
    await page.keyboard.press("o")
    await page.fill("input[name=url]", echo.url)
    await page.fill("input[name=name]", "prices")
    await page.select_option("select[name=reconnect]", label="it is dialled again")
    if folder := os.environ.get("MOORING_SCREENSHOTS"):
        await page.screenshot(path=f"{folder}/form.png")
    await page.locator("#open-form button.primary").click()
    await expect(page.locator("#detail-title")).to_contain_text("Connection")
    record = await service.call("GET", "/v1/connections/prices")
    assert record["ready"] and record["reconnect"]["first"] == "fail"
    await page.keyboard.press("Escape")
    await page.keyboard.press("o")
    await page.fill("input[name=url]", "ws://127.0.0.1:1/")
    await page.fill("input[name=name]", "later")
    await page.select_option("select[name=reconnect]", label="it is dialled again, also where the first attempt fails")
    await page.locator("#open-form button.primary").click()
    await expect(page.locator("#detail-words")).to_contain_text("It has not been ready yet. Last error:")
    assert (await service.call("GET", "/v1/connections/later"))["reconnect"]["first"] == "retry"
    assert opened.complaints == []
