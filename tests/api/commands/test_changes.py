"""Names on the command line; set, reconnect."""

from __future__ import annotations

import json

import pytest

from mooring_api.client import ApiError, Client
from tests.command_line import mooring
from tests.conftest import RunningService
from tests.servers import EchoServer


async def test_a_name_is_taken_wherever_an_id_is(shared: RunningService, echo: EchoServer) -> None:
    ran = await mooring(shared, "open", echo.url, "--name", "feed", "--keep", "--json")
    kept = json.loads(ran.out)["id"]
    assert (await mooring(shared, "send", "feed", "one")).code == 0
    assert "feed" in (await mooring(shared, "show", "feed")).out
    assert (await mooring(shared, "ls")).out.splitlines()[1].split()[:3] == [str(kept), "feed", "Connected"]
    ran = await mooring(shared, "show", "fed")
    assert ran.code == 1 and "did you mean feed?" in ran.errors
    ran = await mooring(
        shared, "set", "feed", "--url", f"{echo.url}new", "-H", "A: b", "--default", "queueTtl", "--json"
    )
    record = json.loads(ran.out)
    assert (record["id"], record["url"], record["headers"]) == (kept, f"{echo.url}new", {"A": "***"})
    ran = await mooring(shared, "reconnect", "feed", "--wait", "60")
    assert ran.out == f"{kept}  Connected  {echo.url}new\n"
    assert echo.peers[1].path_qs == "/new" and echo.peers[1].headers["A"] == "b"
    assert (await mooring(shared, "close", "feed")).code == 0
    ran = await mooring(shared, "tail", "feed", "--json")
    assert [json.loads(line)["kind"] for line in ran.out.splitlines()][-1] == "onTerminate"


async def test_misuse_is_told(shared: RunningService, echo: EchoServer) -> None:
    for arguments, words, code in (
        (("set", "1"), "nothing is to be changed", 2),
        (("set", "1", "--queue-ttl", "1", "--default", "queueTtl"), "it is set, too", 2),
        (("show", "1a"), "neither an id nor a name", 2),
        (("reconnect", "nobody"), "no connection 'nobody'", 1),
    ):
        ran = await mooring(shared, *arguments)
        assert (ran.code, words in ran.errors) == (code, True), ran.errors


async def test_the_client_puts_changes_and_filters(shared: RunningService, echo: EchoServer) -> None:
    async with Client(shared.url, shared.token) as client:
        made = await client.put("mine", echo.url, reconnect=True)
        assert (await client.put("mine", echo.url, reconnect=True)).id == made.id
        with pytest.raises(ApiError) as told:
            await client.put("mine", f"{echo.url}x", reconnect=True)
        assert told.value.type.endswith(":name-taken")
        assert (await client.change("mine", queueTtl=5)).queue_ttl == 5
        assert (await client.change(made.id, queueTtl=None)).queue_ttl == 60
        assert [record.id for record in (await client.connections(name="mine", ready=True)).connections] == [made.id]
        assert (await client.connections(name="mine", ready=False)).connections == []
        assert (await client.terminate("mine")).status == "Closed"
