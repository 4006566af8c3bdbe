"""Kept connections of real servers that are restarted under them, while 500 messages a second come."""

from __future__ import annotations

import base64
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.conftest import RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_kept import OPTIONS
from tests.real_servers import Feed, Mosquitto, Nginx, Publisher, RealServer, WebsocketsFeed, WsFeed, published

RATE = 500
RECONNECT = {"minDelay": 0.1, "maxDelay": 0.5}
FLOWS = 200  # so many messages come over each socket before it is lost


async def _next_socket(service: RunningService, connection: int, number: int) -> None:
    """Wait until socket `number` is ready, and messages flow on it."""

    async def ready() -> dict[str, Any] | None:
        record = await service.record(connection)
        return record if record["status"] == "Connected" and record["socket"] == number else None

    record = await wait_for(ready, what=f"socket {number}")
    before = record["stats"]["messagesIn"]

    async def flows() -> bool:
        return bool((await service.record(connection))["stats"]["messagesIn"] >= before + FLOWS)

    await wait_for(flows, what=f"messages over socket {number}")


async def _sockets(service: RunningService, connection: int, lost: int) -> list[list[dict[str, Any]]]:
    """Return the messages of each socket, after having held the events to the law: one loss and one return each time, `seq` dense."""
    await service.call("DELETE", f"/v1/connections/{connection}")
    events = await service.events(connection, until="onTerminate")
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["kind"] for event in events]
    assert [kind for kind in kinds if kind != "onMessage"] == [
        "onOpen", *["onDisconnect", "onReconnect"] * lost, "onTerminate"
    ]  # fmt: skip
    found: list[list[dict[str, Any]]] = []
    for event in events:
        if event["kind"] in ("onOpen", "onReconnect"):
            found.append([])
        elif event["kind"] == "onMessage":
            found[-1].append(event["event"])
            assert kinds[event["seq"] - 1] == "onMessage"
    return found


def _each_counts_from_one(sockets: list[list[dict[str, Any]]]) -> None:
    for messages in sockets:
        assert [int(message["data"]) for message in messages] == list(range(1, len(messages) + 1))


Restart = Callable[[RealServer, int], Awaitable[None]]


async def _stop_and_start(server: RealServer, at: int) -> None:
    await server.stop(signal.SIGKILL if at % 2 else signal.SIGTERM)
    await server.start()


@rounds(2, 20)
@pytest.mark.parametrize("kind", [WebsocketsFeed, WsFeed])
async def test_a_server_that_is_restarted_is_one_loss_and_one_return_each_time(
    service: RunningService, kind: type[Feed], rounds: int
) -> None:
    async with kind(RATE) as server:
        kept = (await service.open(server.url, reconnect=RECONNECT))["id"]
        await _next_socket(service, kept, 1)
        for at in range(rounds):
            await _stop_and_start(server, at)
            await _next_socket(service, kept, at + 2)
        _each_counts_from_one(await _sockets(service, kept, rounds))
        assert server.most_sockets == 1, "never two sockets of one id at the server"


@rounds(1, 20)
@pytest.mark.parametrize("how", ["reload", "stop", "behind"])
async def test_nginx_in_front_that_is_reloaded_or_stopped_or_loses_who_is_behind_it(
    service: RunningService, how: str, rounds: int
) -> None:
    async with WebsocketsFeed(RATE) as behind, Nginx(behind) as nginx:
        kept = (await service.open(nginx.url, reconnect=RECONNECT))["id"]
        await _next_socket(service, kept, 1)
        for at in range(rounds):
            if how == "reload":
                nginx.reload()
            else:
                await _stop_and_start(nginx if how == "stop" else behind, at)
            await _next_socket(service, kept, at + 2)
        _each_counts_from_one(await _sockets(service, kept, rounds))
        assert behind.most_sockets == 1


@rounds(1, 20)
async def test_a_broker_that_is_restarted_gets_its_handshake_anew_from_the_handler(
    start_service: StartService, rounds: int
) -> None:
    service = await start_service(*OPTIONS)
    async with Mosquitto() as broker, Publisher(broker, RATE):
        opened = await service.open(broker.url, protocols=["mqtt"], handler={"name": "Mqtt"}, reconnect=RECONNECT)
        kept = opened["id"]
        assert (opened["protocol"], opened["dataType"]) == ("mqtt", "blob")
        await _next_socket(service, kept, 1)
        for at in range(rounds):
            await _stop_and_start(broker, at)
            await _next_socket(service, kept, at + 2)
        for messages in await _sockets(service, kept, rounds):
            numbers = published(b"".join(base64.b64decode(message["data"]) for message in messages))
            assert len(numbers) > FLOWS / 2 and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert broker.told.count(" as mooring (") == rounds + 1 and "already connected" not in broker.told
