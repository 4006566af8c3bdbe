"""Names of connections: one has it alone, it stands wherever an id may, and who says on every start what it wants gets one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, wait_for
from tests.servers import EchoServer


async def put(service: RunningService, name: str, url: str, status: int, /, **options: Any) -> dict[str, Any]:
    return await service.call("PUT", f"/v1/connections/{name}", status, json={"url": url, **options})


async def test_a_name_stands_wherever_an_id_may(shared: RunningService, echo: EchoServer) -> None:
    opened = await shared.open(echo.url, name="feed-1", reconnect=True)
    connection = opened["id"]
    assert opened["name"] == "feed-1"
    assert (await shared.get("/v1/connections/feed-1"))["id"] == connection
    async with shared.client.post(
        "/v1/connections/feed-1/messages", data=b"one", headers={"Content-Type": "text/plain"}
    ) as response:
        assert response.status == 200
    await shared.events(connection, count=2)
    for path in ("/v1/connections/feed-1/events", "/v1/events?connection=feed-1&after=start"):
        found = await shared.get(path)
        assert [event["connection"] for event in found["events"]] == [connection, connection]
    await shared.call("POST", "/v1/connections/feed-1/reconnect", 200, headers={"Prefer": "wait=60"})
    listed = await shared.get("/v1/connections?name=feed-1&ready=true")
    assert [record["id"] for record in listed["connections"]] == [connection]
    assert (await shared.get("/v1/connections?name=feed-1&ready=false"))["connections"] == []
    assert (await shared.get("/v1/connections?name=feed"))["connections"] == []

    # Its end frees the name; in a path it then means the last that had it, until another one has.
    assert (await shared.call("DELETE", "/v1/connections/feed-1"))["status"] == "Closed"
    assert (await shared.get("/v1/connections/feed-1"))["id"] == connection
    other = await shared.open(echo.url, name="feed-1")
    assert (await shared.get("/v1/connections/feed-1"))["id"] == other["id"] != connection
    both = await shared.get("/v1/connections?name=feed-1")
    assert [record["id"] for record in both["connections"]] == [connection, other["id"]]
    await shared.call("DELETE", "/v1/connections/feed-1")


async def test_a_living_name_is_taken(shared: RunningService, echo: EchoServer) -> None:
    first = await shared.open(echo.url, name="taken")
    problem = await shared.open(echo.url, 409, name="taken")
    assert problem["type"].endswith(":name-taken") and problem["connection"] == first["id"]
    handshakes = echo.handshakes
    answers = await asyncio.gather(
        *(shared.call("POST", "/v1/connections", None, json={"url": echo.url, "name": "raced"}) for _ in range(10))
    )
    assert sorted("id" in answer for answer in answers) == [False] * 9 + [True]
    assert echo.handshakes == handshakes + 1
    # A dial that fails gives it back.
    await shared.open("ws://127.0.0.1:1/", 502, name="again")
    await shared.open(echo.url, name="again")


@pytest.mark.parametrize("name", ["17", "1a", "-a", "a b", "", "ä", "a/b", "x" * 64])
async def test_what_is_no_name_is_told_where_it_stands(shared: RunningService, echo: EchoServer, name: str) -> None:
    problem = await shared.open(echo.url, 422, name=name)
    assert [error["pointer"] for error in problem["errors"]] == ["/name"]
    assert echo.handshakes == 0
    if name and "/" not in name:
        problem = await put(shared, name, echo.url, 422)
        assert [error["pointer"] for error in problem["errors"]] == ["path:name"]
        assert echo.handshakes == 0


async def test_whoever_says_the_same_again_gets_the_one_that_is_there(shared: RunningService, echo: EchoServer) -> None:
    wanted = {"headers": {"Authorization": "Bearer one"}, "reconnect": {"minDelay": 0.5}, "handler": None}
    first = await put(shared, "mine", echo.url, 201, **wanted)
    assert first["name"] == "mine"
    # The same with the defaults spelled out, the keys otherwise written.
    same = {
        "headers": {"authorization": ["Bearer one"]},
        "reconnect": {"minDelay": 0.5, "maxDelay": 60},
        "pingInterval": 20,
    }
    assert (await put(shared, "mine", echo.url, 200, name="mine", worker="main", **same))["id"] == first["id"]
    assert echo.handshakes == 1
    problem = await put(
        shared, "mine", f"{echo.url}other", 409, headers={"Authorization": "Bearer canary", "X": "1"}, reconnect=True
    )
    assert problem["type"].endswith(":name-taken")
    places = [error["pointer"] for error in problem["errors"]]
    assert places == ["/headers/authorization", "/headers/x", "/reconnect/minDelay", "/url"]
    assert "canary" not in str(problem) and "Bearer one" not in str(problem)
    problem = await put(shared, "mine", echo.url, 422, name="other", **wanted)
    assert [error["pointer"] for error in problem["errors"]] == ["/name"]
    # Down, too, it is there.
    await echo.sockets[0].close(code=1012)
    assert (await put(shared, "mine", echo.url, 200, **wanted))["id"] == first["id"]
    await shared.call("DELETE", "/v1/connections/mine")
    assert (await put(shared, "mine", echo.url, 201, **wanted))["id"] != first["id"]


async def test_many_that_want_the_same_at_once_get_one(shared: RunningService, echo: EchoServer) -> None:
    answers = await asyncio.gather(
        *(shared.call("PUT", "/v1/connections/once", None, json={"url": f"{echo.url}slow?s=0.2"}) for _ in range(10))
    )
    assert len({answer["id"] for answer in answers}) == 1 and echo.handshakes == 1
    problem = await shared.call("PUT", "/v1/connections/x", 502, json={"url": "ws://127.0.0.1:1/"})
    assert problem["type"].endswith(":connect-failed")


async def test_who_wants_one_that_is_closing_gets_another(shared: RunningService, echo: EchoServer) -> None:
    first = await put(shared, "closing", echo.url, 201, closeTimeout=0.3)
    # A peer that does not answer the close frame.
    echo.sockets[0]._writer.transport.pause_reading()  # type: ignore[union-attr]  # its own way to be deaf
    ending = asyncio.create_task(shared.call("DELETE", "/v1/connections/closing"))

    async def closing() -> bool:
        return (await shared.record(first["id"]))["status"] in ("Closing", "Closed")

    await wait_for(closing)
    second = await put(shared, "closing", echo.url, 201, closeTimeout=0.3)
    assert second["id"] != first["id"]
    await ending


async def test_an_unknown_name_is_404_and_a_wrong_filter_422(shared: RunningService) -> None:
    for path in ("/v1/connections/nobody", "/v1/connections/nobody/events", "/v1/events?connection=nobody"):
        problem = await shared.get(path, 404)
        assert problem["type"].endswith(":connection-not-found") and "'nobody'" in problem["detail"]
    for query, pointer in (("name=17", "query:name"), ("ready=yes", "query:ready")):
        problem = await shared.get(f"/v1/connections?{query}", 422)
        assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_names_outlive_the_service_also_of_what_is_not_kept(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    plain = await put(service, "plain", echo.url, 201, headers={"A": "b"})
    kept = await put(service, "kept", echo.url, 201, reconnect=True)
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    assert (await put(service, "plain", echo.url, 200, headers={"A": "b"}))["id"] == plain["id"]
    assert (await put(service, "kept", echo.url, 200, reconnect=True))["id"] == kept["id"]
    assert (await put(service, "plain", echo.url, 409))["errors"] == [{"pointer": "/headers/a", "detail": "differs"}]
    await service.open(echo.url, 409, name="kept")
