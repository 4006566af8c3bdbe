"""The console page in a real browser: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import re
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page, async_playwright, expect

from mooring.options import OPTIONS
from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer

CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

PATIENT_MS = 60_000  # a deadline, not a figure: the machine may be busy
expect.set_options(timeout=PATIENT_MS)

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: make test installs it where it may (apt install chromium)"
)


class Opened:
    """A page, and what it has complained about and asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))


@pytest.fixture
async def opened() -> AsyncIterator[Opened]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page(viewport={"width": 1440, "height": 860})
        page.set_default_timeout(PATIENT_MS)
        yield Opened(page)
        await browser.close()


async def visit(opened: Opened, service: RunningService) -> Page:
    await opened.page.goto(f"{service.url}/#token={service.token}")
    await expect(opened.page.locator("#state")).to_have_text("live")
    return opened.page


async def texts(page: Page) -> list[str]:
    return await page.locator("#events .row:visible .text").all_text_contents()


async def test_the_first_visit_asks_for_the_token_and_keeps_it_in_the_tab(
    opened: Opened, shared: RunningService
) -> None:
    page = opened.page
    await page.goto(shared.url)
    await expect(page.locator("#token-dialog")).to_be_visible()
    await page.fill("#token-input", "wrong")
    await page.keyboard.press("Enter")
    await expect(page.locator("#token-error")).to_contain_text("not (or no longer) valid")
    await page.fill("#token-input", shared.token)
    await page.keyboard.press("Enter")
    await expect(page.locator("#state")).to_have_text("live")
    assert await page.evaluate("[localStorage.length, document.cookie, sessionStorage.length]") == [0, "", 1]


async def test_the_token_in_the_fragment_leaves_the_address(opened: Opened, shared: RunningService) -> None:
    page = await visit(opened, shared)
    assert shared.token not in page.url


async def test_the_address_with_the_token_may_be_opened_in_the_tab_that_asks_for_it(
    opened: Opened, shared: RunningService
) -> None:
    page = opened.page
    await page.goto(shared.url)
    await expect(page.locator("#token-dialog")).to_be_visible()
    await page.goto(f"{shared.url}/#token={shared.token}")  # the same document: only the fragment changes
    await expect(page.locator("#state")).to_have_text("live")
    assert shared.token not in page.url


async def test_open_send_see_filter_and_terminate(opened: Opened, service: RunningService, echo: EchoServer) -> None:
    page = await visit(opened, service)
    await page.keyboard.press("o")
    await page.fill("input[name=url]", "ws://127.0.0.1:1/")
    await page.keyboard.press("Enter")
    await expect(page.locator("#open-error")).to_contain_text("refused the connection")
    await page.fill("input[name=url]", echo.url)
    await page.fill("textarea[name=headers]", "X-Token: abc")
    await page.locator("#open-form button.primary").click()
    await expect(page.locator("#detail-title")).to_contain_text("Connection")
    await expect(page.locator("#connections .row").first).to_contain_text("Connected")
    assert echo.peers[0].headers["X-Token"] == "abc"

    await page.fill("#send-text", "hello from the page")
    await page.locator("#send-form button").click()
    await expect(page.locator("#send-result")).to_contain_text("sent, 19 bytes")
    await expect(page.locator("#events .row", has_text="hello from the page")).to_be_visible()

    await page.locator("input[value=object]").check()
    await page.fill("#send-text", "{not json")
    await expect(page.locator("#send-result")).to_have_class("bad")
    await page.fill("#send-text", '{"n": 1}')
    await expect(page.locator("#send-result")).to_have_text("valid JSON")
    await page.locator("#send-form button").click()
    await wait_for(lambda: '{"n": 1}' in echo.peers[0].received)
    await page.locator("input[value=blob]").check()
    await page.set_input_files(
        "#send-file", {"name": "b.bin", "mimeType": "application/octet-stream", "buffer": b"abc"}
    )
    await page.locator("#send-form button").click()
    await wait_for(lambda: b"abc" in echo.peers[0].received)

    await page.fill("#event-filter", "hello")
    await expect(page.locator("#events .row:visible")).to_have_count(1)
    await page.locator("#events .row:visible").click()
    await expect(page.locator("#detail-json")).to_contain_text('"kind": "onMessage"')
    await page.fill("#event-filter", "")

    await page.locator("#connections .row").first.click()
    await page.locator("#terminate").click()
    await expect(page.locator("#detail-words")).to_contain_text("Closed normally")
    await page.keyboard.press("Escape")
    await expect(page.locator("#detail")).to_be_hidden()
    assert opened.hosts == {service.url.removeprefix("http://")}, "nothing is asked of another host"
    assert [text for text in opened.complaints if "502" not in text] == []


async def test_a_second_enter_opens_no_second_connection(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    page = await visit(opened, service)
    await page.keyboard.press("o")
    await page.fill("input[name=url]", f"{echo.url}slow?s=0.5")
    await page.fill("textarea[name=headers]", "X-Many: a\nX-Many: b")
    await page.locator("#open-form button.primary").dblclick()
    await expect(page.locator("#detail-title")).to_contain_text("Connection")
    assert len((await service.get("/v1/connections"))["connections"]) == 1
    assert echo.peers[0].headers.getall("X-Many") == ["a", "b"]


async def test_options_of_the_form_are_made_from_the_code_and_what_is_left_out_is_not_said(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    page = await visit(opened, service)
    await page.keyboard.press("o")
    await page.fill("input[name=url]", echo.url)
    await page.locator("summary").click()
    simple = [option for option in OPTIONS.values() if option.kind in (int, float, bool)]
    assert await page.locator("#open-more label").count() == len(simple)
    assert await page.locator("input[name=pingInterval]").get_attribute("placeholder") == "20"
    bodies: list[Any] = []
    page.on("request", lambda request: bodies.append(request.post_data_json) if request.method == "POST" else None)
    await page.fill("input[name=connectTimeout]", "0")
    await page.keyboard.press("Enter")
    assert await page.locator("input[name=connectTimeout]:invalid").count() == 1, "the browser says what is wrong"
    await page.fill("input[name=connectTimeout]", "2.5")
    await page.fill("input[name=maxMessageSize]", "1000")
    await page.select_option("select[name=compress]", "true")
    await page.locator("#open-form button.primary").click()
    await expect(page.locator("#detail-title")).to_contain_text("Connection")
    assert bodies == [
        {"url": echo.url, "dataType": "text", "connectTimeout": 2.5, "maxMessageSize": 1000, "compress": True}
    ]
    assert "permessage-deflate" in echo.peers[0].headers["Sec-WebSocket-Extensions"]


async def test_what_a_peer_sends_is_shown_as_it_is_and_does_nothing(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    page = await visit(opened, service)
    await service.open(echo.url, dataType="object")
    await echo.sockets[0].send_str(
        '{"n": 12345678901234567890, "m": 1.0, "html": "<b id=mine>x</b>", "rtl": "\\u202eexe"}'
    )
    row = page.locator("#events .row", has_text="<b id=mine>")
    await expect(row).to_contain_text("12345678901234567890")
    await row.click()
    json = page.locator("#detail-json")
    await expect(json).to_contain_text('"n": 12345678901234567890')
    await expect(json).to_contain_text('"m": 1.0')
    await expect(json).to_contain_text("\\u202eexe")
    assert await page.locator("#mine").count() == 0
    await echo.sockets[0].send_str(f'"{"x" * 300_000}"')
    await page.locator("#events .row", has_text="xxxxx").click()
    await page.locator("#detail-all").click()
    assert len(await json.text_content() or "") > 300_000


async def test_events_that_come_do_not_move_what_somebody_reads(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    page = await visit(opened, service)
    await service.open(f"{echo.url}push?count=100")
    # By its text alone: a hundred may stand in the milliseconds of others.
    await expect(page.locator("#events .text", has_text=re.compile(r"^100$"))).to_be_visible()
    await page.locator("#events").evaluate("(list) => { list.scrollTop = 26 * 40; }")

    async def first_row() -> str:
        return str(
            await page.locator("#events").evaluate(
                """(list) => [...list.querySelectorAll('.row')].find((row) =>
                    Math.abs(row.getBoundingClientRect().top - list.getBoundingClientRect().top) < 1
                )?.querySelector('.text').textContent ?? ''"""
            )
        )

    before = await wait_for(first_row)  # drawn with the next frame
    await echo.sockets[0].send_str("later")
    await page.fill("#connection-filter", "nothing")  # draws too; the event list has its own filter
    await expect(page.locator("#events .space")).to_have_css("height", f"{26 * 103}px")
    assert await wait_for(first_row) == before


async def test_the_list_begins_with_the_last_hundred_events(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    record = await service.open(f"{echo.url}push?count=250")
    await service.events(record["id"], count=251)
    page = await visit(opened, service)
    await expect(page.locator("#events .space")).to_have_css("height", f"{26 * 100}px")
    newest = await texts(page)
    assert newest[:3] == ["250", "249", "248"]
    await echo.sockets[0].send_str("later")
    await expect(page.locator("#events .row", has_text="later")).to_be_visible()
    await expect(page.locator("#events .space")).to_have_css("height", f"{26 * 101}px")
    assert (await texts(page))[:2] == ["later", "250"], "what comes stands on top, and nothing twice"
    await page.locator("#clear").click()
    await page.reload()
    await expect(page.locator("#events .space")).to_have_css("height", f"{26 * 100}px")


async def test_a_journal_that_keeps_less_than_a_hundred_shows_what_it_has_and_no_gap(
    opened: Opened, start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_JOURNAL_MAX_EVENTS": "30", "MOORING_JOURNAL_STORE": "memory"})
    record = await service.open(f"{echo.url}push?count=400")

    await wait_for(lambda: _received(service, record["id"], 400))
    for number in range(10):
        await service.send(record["id"], f"kept {number}")
    await wait_for(lambda: _received(service, record["id"], 410))
    assert len((await service.get("/v1/events?after=start&limit=1000"))["events"]) < 100
    page = await visit(opened, service)
    await expect(page.locator("#events .row", has_text="kept 9")).to_be_visible()
    await page.fill("#event-filter", "gap")
    await expect(page.locator("#events .row:visible")).to_have_count(0)
    seen = await page.evaluate(
        """async () => {
            const { EventLog } = await import('/console/eventlog.js');
            const line = (at, kind) => JSON.stringify({ id: `e-${at}`, kind, time: '', event: {} });
            const log = new EventLog();
            log.add([line(7, 'gap'), line(8, 'onOpen'), line(9, 'onOpen'), line(10, 'gap'), line(11, 'onOpen')], 9);
            return [log.seen, log.events.map((event) => event.id)];
        }"""
    )
    assert seen == [2, ["e-8", "e-9", "e-10", "e-11"]], "history does not count in the rate; a later gap is one"


async def _received(service: RunningService, connection: int, count: int) -> bool:
    return bool((await service.record(connection))["stats"]["messagesIn"] == count)


async def test_the_page_keeps_so_much_of_the_events_and_no_more(opened: Opened, shared: RunningService) -> None:
    page = await visit(opened, shared)
    kept = await page.evaluate(
        """async () => {
            const { EventLog } = await import('/console/eventlog.js');
            const line = (id, size) => JSON.stringify({ id, kind: 'onMessage', time: '', event: { data: 'x'.repeat(size) } });
            const [large, small] = [new EventLog(), new EventLog()];
            for (let id = 0; id < 50; id += 1) large.add([line(id, 2 ** 20)]);
            for (let id = 0; id < 7000; id += 1) small.add([line(id, 1)]);
            return [large.events.length, large.events.at(-1).id, small.events.length <= 6000, small.events.at(-1).id];
        }"""
    )
    assert kept == [31, 49, True, 6999]


async def test_pause_holds_the_events_still(opened: Opened, service: RunningService, echo: EchoServer) -> None:
    page = await visit(opened, service)
    record = await service.open(echo.url)
    await service.send(record["id"], "first")
    await expect(page.locator("#events .row", has_text="first")).to_be_visible()
    await page.locator("#pause").click()
    await service.send(record["id"], "second")
    await page.wait_for_timeout(500)
    assert "second" not in await texts(page)
    await page.locator("#pause").click()
    await expect(page.locator("#events .row", has_text="second")).to_be_visible()


async def test_killing_a_worker_ends_its_connections_and_says_why(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    page = await visit(opened, service)
    for _ in range(3):
        await service.open(echo.url, worker="feeds")
    await expect(page.locator("#connections .Connected")).to_have_count(3)
    await page.locator('[data-worker="feeds"] button').click()
    await expect(page.locator("#confirm-text")).to_contain_text("3 connections")
    await page.locator("#confirm-yes").click()
    await expect(page.locator("#connections .Connected")).to_have_count(0)
    await expect(page.locator('[data-worker="feeds"]')).to_have_count(0)
    await page.locator("#connections .row").first.click()
    await expect(page.locator("#detail-words")).to_contain_text("Closed")


async def test_a_restart_of_the_service_costs_the_page_no_event(
    opened: Opened, start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    service.listen = f"127.0.0.1:{service.port}"
    page = await visit(opened, service)
    record = await service.open(echo.url)
    await service.send(record["id"], "before")
    await expect(page.locator("#events .row", has_text="before")).to_be_visible()
    await service.kill()
    await expect(page.locator("#state")).to_contain_text("away")
    for number in range(10):
        await echo.sockets[0].send_str(f"meanwhile {number}")
    await service.start()
    await expect(page.locator("#state")).to_have_text("live")
    await page.fill("#event-filter", "meanwhile")
    await expect(page.locator("#events .row:visible")).to_have_count(10)
    assert await texts(page) == [f"meanwhile {number}" for number in reversed(range(10))]


@pytest.mark.timeout(300)
async def test_a_thousand_connections_do_not_freeze_the_page(
    opened: Opened, service: RunningService, echo: EchoServer
) -> None:
    numbers = iter(range(1_000))

    async def some() -> None:
        for number in numbers:
            await service.open(f"{echo.url}push?count=40&interval=0.5", worker=f"w{number % 4}")

    opening = asyncio.gather(*(some() for _ in range(32)))
    page = await visit(opened, service)
    await opening
    await expect(page.locator("#connection-count")).to_have_text("1000")
    assert await page.locator("#connections .row").count() < 60, "only visible rows exist"
    longest = """() => new Promise((resolve) => {
            let frames = 0, worst = 0, last = performance.now();
            const frame = (now) => {
                worst = Math.max(worst, now - last); last = now; frames += 1;
                if (frames < 90) requestAnimationFrame(frame); else resolve(worst);
            };
            requestAnimationFrame(frame);
        })"""
    # A page that freezes does so in each of these looks, a busy machine stands still in some.
    looks_ms = []
    while not looks_ms or (looks_ms[-1] >= 1_000 and len(looks_ms) < 10):
        looks_ms.append(await page.evaluate(longest))
    print(f"longest frame of each look: {looks_ms} ms")
    assert min(looks_ms) < 1_000, "it never freezes"
    await page.locator("#connections").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("PageDown")
    await expect(page.locator("#detail-title")).to_contain_text("Connection")
    assert opened.complaints == []
