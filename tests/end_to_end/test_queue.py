"""What is sent while a kept connection is down, through everything."""

from __future__ import annotations

from typing import Any

from tests.conftest import RunningService
from tests.end_to_end.test_kept import status_of
from tests.servers import EchoServer

TEXT = {"Content-Type": "text/plain"}


async def down(service: RunningService, echo: EchoServer, **options: Any) -> int:
    """Return a kept connection that has lost its socket."""
    kept: int = (await service.open(echo.url, reconnect={"minDelay": 60}, **options))["id"]
    await echo.sockets[-1].close(code=1001)
    await status_of(service, kept, "Reconnecting")
    return kept


async def back(service: RunningService, kept: int) -> None:
    await service.call("POST", f"/v1/connections/{kept}/reconnect", 200, headers={"Prefer": "wait=5"})


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
    record = await service.record(kept)
    assert record["queued"] == {"messages": 0, "bytes": 0} and record["stats"]["messagesOut"] == 4


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
