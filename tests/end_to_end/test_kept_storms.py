"""Many kept connections that lose their server at once: they return at the pace of the limiter."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.end_to_end.test_kept_sockets import stays
from tests.proxies import free_port
from tests.servers import RawConnection, RawServer


class Harbour:
    """A server for many: which of them are there, how often at once at most, and when each came. While it is `away` it lets nobody in."""

    def __init__(self, port: int = 0, *, away: bool = False) -> None:
        self.there: Counter[str] = Counter()
        self.most = 0
        self.away = away
        self.came_at: list[float] = []
        self.turned_away = 0
        self.late_s = 0.0  # the longest time for which this very process did not look who came
        self.server = RawServer(self._script, port=port)

    async def watch(self) -> None:
        """Measure `late_s`, until it is cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.05)
            self.late_s = max(self.late_s, time.monotonic() - began - 0.05)

    async def _script(self, connection: RawConnection) -> None:
        self.came_at.append(time.monotonic())
        if self.away:
            self.turned_away += 1
            connection.reset()
            return
        name = connection.request_line.split()[1]
        self.there[name] += 1
        self.most = max(self.most, self.there[name])
        try:
            await stays(connection)
        finally:
            self.there[name] -= 1

    def in_each_second(self) -> list[int]:
        """How many came in each second since the first one."""
        found = Counter(int(at - self.came_at[0]) for at in self.came_at)
        return [found[second] for second in range(max(found) + 1)]


@pytest.mark.parametrize("away_s", [0, 3, pytest.param(60, marks=pytest.mark.long)])
async def test_a_storm_of_returns_passes_the_limiter_and_nobody_comes_twice(
    start_service: StartService, away_s: int
) -> None:  # 4 and 5, with 300; 2,000 are a bench command
    count, rate, burst = 300, 50, 10
    service = await start_service()
    first = Harbour(free_port())
    async with first.server:
        await asyncio.gather(
            *(service.open(f"{first.server.url}{at}", reconnect=True, pingInterval=0) for at in range(count))
        )

    async def all_lost() -> bool:
        return not (await service.get("/v1/connections?limit=1000&status=Connected"))["connections"]

    await wait_for(all_lost)
    await asyncio.sleep(1)
    second = Harbour(first.server.port, away=away_s > 0)
    watching = asyncio.create_task(second.watch())
    async with second.server:

        async def all_back() -> bool:
            page = await service.get("/v1/connections?limit=1000&status=Connected")
            return len(page["connections"]) == count

        await asyncio.sleep(away_s)
        second.away = False
        cpu, began = await _cpu_s(service), time.monotonic()
        await wait_for(all_back, 180)  # by the clock: 105 s
        took = time.monotonic() - began
        watching.cancel()
        seconds, used_s = second.in_each_second(), await _cpu_s(service) - cpu
        print(
            f"{count} are back after {took:.1f} s, with {used_s:.2f} s of CPU, {second.turned_away} dials in vain: {seconds}"
        )
        assert second.most == 1, "never two sockets of one id"
        assert max(seconds) <= (burst + rate * (1 + second.late_s)) * 1.1, (
            f"also while it is away; late {second.late_s:.2f} s"
        )
        assert sum(seconds) == count + second.turned_away and bool(second.turned_away) == bool(away_s)
        assert used_s / took < 0.3
        page = await service.get("/v1/connections?limit=1000")
        assert {record["socket"] for record in page["connections"]} == {2}
        for record in page["connections"][:20]:
            events = await service.events(record["id"], count=3)
            assert [event["kind"] for event in events] == ["onOpen", "onDisconnect", "onReconnect"]


async def _cpu_s(service: RunningService) -> float:
    return float((await service.get("/v1/workers/main"))["cpu"])
