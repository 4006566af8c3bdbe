"""What has ended is known for as long as the configuration says, at every node, and not for ever."""

from __future__ import annotations

from tests.cluster_kit.services import FOUND_S, Nodes
from tests.conftest import RunningService, wait_for
from tests.servers import EchoServer

RETAINED = "[retention]\nclosed_connections = 1"


async def test_what_has_ended_is_forgotten_at_every_node_and_stays_so_over_a_restart(nodes: Nodes) -> None:
    a, b = await nodes.begin("ab", beside=RETAINED, dead_after=60)
    async with EchoServer() as echo:
        made = [(await a.open(echo.url, worker="desk"))["id"] for _ in range(4)]
        for one in made[:3]:
            await a.call("DELETE", f"/v1/connections/{one}")
        first, second, newest, living = made

        async def are_forgotten(service: RunningService) -> bool:
            answers = []
            for one in (first, second):
                async with service.client.get(f"/v1/connections/{one}") as response:
                    answers.append(response.status)
            return answers == [404, 404]

        async def is_shown_as_closed(service: RunningService) -> bool:  # all that was done before it is known by then
            async with service.client.get(f"/v1/connections/{newest}") as response:
                return response.status == 200 and (await response.json())["status"] == "Closed"

        for service in (a, b):
            await wait_for(lambda service=service: is_shown_as_closed(service), FOUND_S)
            await wait_for(lambda service=service: are_forgotten(service), FOUND_S)
            listed = await service.get("/v1/connections")
            assert [record["id"] for record in listed["connections"]] == [newest, living]
        await b.stop()
        await b.start()
        await wait_for(b.is_ready, FOUND_S)
        listed = await b.get("/v1/connections")
        assert [record["id"] for record in listed["connections"]] == [newest, living]
        assert (await b.get(f"/v1/connections/{living}"))["status"] == "Connected"
        await a.call("PUT", "/v1/workers/idle", 201)

        async def its_start_is_told() -> bool:
            async with b.client.get("/v1/workers/idle/events?after=start") as response:
                return response.status == 200 and bool((await response.json())["events"])

        await wait_for(its_start_is_told, FOUND_S)
    await nodes.check()
