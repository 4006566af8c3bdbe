"""Hooks against a real receiver: what is posted, in which order, and what happens when somebody dies."""

from __future__ import annotations

from tests.conftest import StartService, wait_for
from tests.receiver import Receiver, all_events, hook
from tests.servers import EchoServer


async def test_every_event_is_posted_once_in_order_over_a_kill_of_the_service(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    async with Receiver() as receiver:
        made = await hook(service, "orders", receiver.url, after="start")
        await service.open(f"{echo.url}push?count=300")
        await receiver.until(200)
        await service.restart_after_kill()
        record = await service.open(f"{echo.url}push?count=300", worker="other")
        await service.call("DELETE", f"/v1/connections/{record['id']}")
        expected = [event["id"] for event in await all_events(service)]
        await wait_for(lambda: receiver.ids[-1:] == expected[-1:], 20)
        once = list(dict.fromkeys(receiver.ids))
        assert once == expected, "each event, in the order of the journal"
        assert len(receiver.ids) - len(once) <= 500, "a batch is repeated at most"
        after = None
        for got in receiver.got:
            page = got.verify(made["secret"])
            assert after in (None, page["after"]) or page["after"] in {one.page["after"] for one in receiver.got}
            after = page["next"]
        shown = await service.get("/v1/hooks/orders")
        assert shown["status"] == "Active" and shown["lag"] == 0 and "secret" not in shown
