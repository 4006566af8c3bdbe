"""Hooks on the console page, in a real browser."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.api.console.test_console import CHROMIUM, Opened, opened, visit
from tests.conftest import RunningService
from tests.receiver import Receiver, hook
from tests.servers import EchoServer

__all__ = ["opened"]

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: make test installs it where it may (apt install chromium)"
)


async def test_a_hook_is_seen_tested_skipped_paused_and_rotated(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    async with Receiver(lambda got: 400 if got.events else 200) as receiver:
        page = await visit(opened, service)
        await expect(page.locator("#hooks-section")).to_be_hidden()
        await hook(service, "shop", receiver.url, after="start", kinds=["onOpen"])
        await service.open(echo.url)
        await expect(page.locator("[data-hook=shop] .facts")).to_contain_text("Failing")
        await page.click("[data-hook=shop] button")
        await expect(page.locator("#hook-attempts li").first).to_contain_text("400")
        await expect(page.locator("#hook-held li")).to_contain_text("onOpen")
        await page.click("#hook-test")
        await expect(page.locator("#hook-result")).to_contain_text("status 200")
        await page.click("#hook-skip")
        await page.click("#confirm-yes")
        await expect(page.locator("#hook-held-part")).to_be_hidden()
        assert (await service.get("/v1/hooks/shop"))["skipped"] == 1
        await page.click("#hook-pause")
        await expect(page.locator("#hook-words")).to_contain_text("Paused")
        await page.click("#hook-rotate")
        await page.click("#confirm-yes")
        await expect(page.locator("#hook-result")).to_contain_text("whsec_")
        await page.click("#hook-close")
        await expect(page.locator("#hook-result")).to_have_text("")
        await service.call("DELETE", "/v1/hooks/shop")
        await expect(page.locator("#hooks-section")).to_be_hidden()
        assert opened.complaints == []
