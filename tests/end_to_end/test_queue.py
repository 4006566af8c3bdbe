"""What is sent while a kept connection is down, through everything."""

from __future__ import annotations

from typing import Any

from tests.conftest import RunningService, wait_for
from tests.end_to_end.test_kept import STAYS_DOWN, status_of
from tests.end_to_end.test_metrics import metrics
from tests.servers import EchoServer

TEXT = {"Content-Type": "text/plain"}


async def down(service: RunningService, echo: EchoServer, **options: Any) -> int:
    """Return a kept connection that has lost its socket."""
    kept: int = (await service.open(echo.url, reconnect=STAYS_DOWN, **options))["id"]
    # The time until its next attempt is drawn from eight hours, and not from one.
    await echo.sockets[-1].close(code=1013)
    await status_of(service, kept, "Reconnecting")
    return kept


async def back(service: RunningService, kept: int) -> None:
    await service.call("POST", f"/v1/connections/{kept}/reconnect", 200, headers={"Prefer": "wait=60"})


async def test_what_is_sent_while_it_is_down_waits_and_goes_out_once_in_order(
    service: RunningService, echo: EchoServer
) -> None:  # 36
    kept = await down(service, echo, whenDown="queue")
    first = await service.send(kept, "one", status=202)
    assert (first["queued"], first["bytes"], first["queueId"]) == (1, 3, 1) and first["expiresAt"].endswith("Z")
    await service.send(kept, "two", status=202)
    assert (await service.send(kept, "three", status=202))["queueId"] == 3
    record = await service.record(kept)
    assert (record["queued"], record["whenDown"], record["queueTtl"]) == ({"messages": 3, "bytes": 11}, "queue", 60)
    await back(service, kept)
    await service.send(kept, "four")
    events = await service.events(kept, count=7)
    assert [event["event"].get("data") for event in events[3:]] == ["one", "two", "three", "four"]

    async def all_are_counted() -> bool:
        record = await service.record(kept)
        return bool(record["queued"] == {"messages": 0, "bytes": 0} and record["stats"]["messagesOut"] == 4)

    await wait_for(all_are_counted)


async def test_what_is_too_old_or_not_wanted_any_more_comes_back(
    service: RunningService, echo: EchoServer
) -> None:  # 36
    kept = await down(service, echo)
    refused = await service.send(kept, "now or never", status=409)
    assert refused["connectionStatus"] == "Reconnecting"
    await service.call("POST", f"/v1/connections/{kept}/messages?whenDown=queue&ttl=0.2", 202, data="old", headers=TEXT)
    await service.events(kept, count=3)
    path = f"/v1/connections/{kept}/messages?whenDown=queue"
    await service.call("POST", path, 202, data=b"\x00\xff", headers={"Content-Type": "application/octet-stream"})
    assert await service.call("DELETE", f"/v1/connections/{kept}/queue", 200) == {"messages": 1, "bytes": 2}
    await service.call("POST", path, 202, data="late", headers=TEXT)
    await service.call("DELETE", f"/v1/connections/{kept}", 200)
    events = await service.events(kept, count=6)
    assert [event["kind"] for event in events] == [
        "onOpen", "onDisconnect", "onUnsent", "onUnsent", "onUnsent", "onTerminate"
    ]  # fmt: skip
    assert [event["event"] for event in events[2:5]] == [
        {"type": "unsent", "reason": "expired", "count": 1, "bytes": 3, "messages": [{"queueId": 1, "data": "old"}]},
        {"type": "unsent", "reason": "dropped", "count": 1, "bytes": 2, "messages": [{"queueId": 2, "data": "AP8=", "encoding": "base64"}]},
        {"type": "unsent", "reason": "terminated", "count": 1, "bytes": 4, "messages": [{"queueId": 3, "data": "late"}]},
    ]  # fmt: skip


async def test_what_waits_is_the_first_frame_behind_the_steps_of_the_opening(
    service: RunningService, echo: EchoServer
) -> None:  # 19
    recipe = {
        "opening": [
            {"send": "login ${socket}", "expect": {"startsWith": "login"}},
            {"send": "subscribe", "expect": "subscribe"},
        ]
    }
    kept = await down(service, echo, whenDown="queue", recipe=recipe, name="orders")
    await service.call("POST", "/v1/connections/orders/messages", 202, data="order", headers=TEXT)
    await back(service, kept)
    await service.send(kept, "next")
    await wait_for(lambda: len(echo.peers[-1].received) == 4)
    assert echo.peers[-1].received == ["login 2", "subscribe", "order", "next"]


async def test_before_its_first_socket_and_by_a_patch_a_connection_queues(
    service: RunningService, echo: EchoServer
) -> None:
    opened = await service.open("ws://127.0.0.1:1/", 202, reconnect={"first": "retry", **STAYS_DOWN})
    kept = opened["id"]
    refused = await service.send(kept, "x", status=409)
    assert refused["connectionStatus"] == "Connecting"
    await service.call(
        "PATCH", f"/v1/connections/{kept}", 200, json={"whenDown": "queue", "queueTtl": 600, "url": echo.url}
    )
    await service.send(kept, "first", status=202)
    async with service.client.post(
        f"/v1/connections/{kept}/messages?whenDown=fail", data="x", headers=TEXT
    ) as response:
        assert response.status == 409 and int(response.headers["Retry-After"]) >= 1
    lines = {"Content-Type": "application/x-ndjson"}
    path = f"/v1/connections/{kept}/messages"
    told = await service.call("POST", path, 202, data=b'{"a":1}\n\n[2]\n', headers=lines)
    assert (told.pop("expiresAt")[-1], told) == ("Z", {"sent": 0, "queued": 2, "bytes": 10, "queueId": 2})
    await back(service, kept)
    events = await service.events(kept, count=4)
    assert [event["event"].get("data") for event in events] == [None, "first", '{"a":1}', "[2]"]


async def test_what_waits_and_what_is_asked_is_counted(service: RunningService, echo: EchoServer) -> None:
    kept = await down(service, echo, whenDown="queue", requests="cdp")
    await service.send(kept, "abc", status=202)

    async def counted(**expected: float) -> bool:
        found = await metrics(service)
        return all(found.get(f'mooring_{name}{{"worker": "main"}}') == value for name, value in expected.items())

    await wait_for(lambda: counted(queued_messages=1, queued_bytes=3))
    await service.call("DELETE", f"/v1/connections/{kept}/queue", 200)
    await back(service, kept)
    requests = f"/v1/connections/{kept}/requests"
    await service.call("POST", requests, 200, json={"result": 1})
    await service.call("POST", requests, 502, json={"error": 1})
    await service.call("POST", f"{requests}?timeout=0.1", 504, json={"method": "x"})
    await wait_for(lambda: counted(queued_messages=0, queued_bytes=0, request_seconds_count=2))
    outcomes = [
        f'mooring_requests_total{{"outcome": "{one}", "worker": "main"}}' for one in ("replied", "error", "timeout")
    ]

    async def each_is_counted_once() -> dict[str, float] | None:  # the last of them may be told by a later probe
        found = await metrics(service)
        return found if all(found.get(one) == 1 for one in outcomes) else None

    found = await wait_for(each_is_counted_once)
    assert found['mooring_unsent_total{"reason": "dropped", "worker": "main"}'] == 1
