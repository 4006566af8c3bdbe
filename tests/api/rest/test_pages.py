"""A page of events is bounded in bytes as well as in events, and what follows goes on where it ended."""

from __future__ import annotations

from tests.conftest import RunningService
from tests.servers import EchoServer

MIB = 2**20


async def test_a_page_ends_at_some_mib_and_the_next_goes_on_without_a_hole(
    shared: RunningService, echo: EchoServer
) -> None:
    record = await shared.open(echo.url, maxMessageSize=16 * MIB)
    sizes = [2 * MIB] * 9 + [10 * MIB, 1, 1, 5 * MIB]
    for size in sizes:
        await shared.send(record["id"], b"x" * size)
    await shared.events(record["id"], count=1 + len(sizes))
    for after in ("start",):
        seqs: list[int] = []
        pages = 0
        while True:
            async with shared.client.get(f"/v1/connections/{record['id']}/events?after={after}&limit=1000") as response:
                body = await response.read()
                page = await response.json()
            if not page["events"]:
                assert page["next"] == after
                break
            pages += 1
            assert len(body) < 9 * MIB or len(page["events"]) == 1
            seqs += [event["seq"] for event in page["events"]]
            after = page["next"]
        assert seqs == list(range(1, len(sizes) + 2))
        assert 4 <= pages <= 7


async def test_a_page_that_waits_is_bounded_too(shared: RunningService, echo: EchoServer) -> None:
    record = await shared.open(echo.url, maxMessageSize=16 * MIB)
    for _ in range(6):
        await shared.send(record["id"], b"x" * (3 * MIB))
    await shared.events(record["id"], count=7)
    page = await shared.get(f"/v1/connections/{record['id']}/events?after=start&wait=50&limit=1000")
    assert [event["seq"] for event in page["events"]] == [1, 2, 3]
