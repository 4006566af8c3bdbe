"""A subscriber that goes on at another node, which may have read less of the log than it has."""

from __future__ import annotations

from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.services import FOUND_S, Nodes
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer


async def test_who_goes_on_at_a_node_that_has_read_less_waits_there_and_is_told_of_no_gap(nodes: Nodes) -> None:
    (a,) = await nodes.begin("a", dead_after=600)
    proxies = Proxies(nodes.servers.ports)
    try:
        (b,) = await nodes.begin("b", dead_after=600, engine=proxies.urls)
        async with EchoServer() as echo:
            one = (await a.open(echo.url))["id"]
            await b.get(f"/v1/connections/{one}")
            proxies.hold()
            await a.send(one, b"while b reads nothing")
            last = (await a.events(one, count=2))[-1]["id"]
            for _ in range(2):  # while it is not known yet that the engine is away, and then
                page = await b.get(f"/v1/events?after={last}")
                assert (page["events"], page["next"]) == ([], last)
                await wait_for_engine(b, "down")
            proxies.pass_on()
            await wait_for_engine(b, "up")
            await a.send(one, b"and more")
            page = await b.get(f"/v1/events?after={last}&wait=60")
            assert [event.get("seq") for event in page["events"]] == [3]
            epoch, _, position = page["next"].partition("-")
            page = await b.get(f"/v1/events?after={epoch}-{int(position) + 10**12}")
            assert page["events"][0]["kind"] == "gap", "nobody has given that out"
    finally:
        proxies.close()


async def wait_for_engine(service: RunningService, status: str) -> None:
    async def is_so() -> bool:
        return (await service.get("/v1/cluster"))["engine"]["status"] == status

    await wait_for(is_so, FOUND_S)
