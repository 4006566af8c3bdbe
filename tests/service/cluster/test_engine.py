"""The link to real servers: what is done, what is not, and what nobody knows."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import random
import signal
from collections.abc import AsyncIterator

import pytest

from mooring_service.cluster import objects
from mooring_service.cluster.engine import (
    PENDING_BYTES,
    Answer,
    Conflict,
    Down,
    Engine,
    EngineError,
    EngineSettings,
    Link,
    Refused,
    Unknown,
)
from tests.cluster_kit.nodes import ANSWER_S, THREE, running_engine
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.conftest import rounds, wait_for


async def stream(engine: Engine, cluster: str) -> tuple[str, str]:
    assert await objects.create(engine, cluster, THREE)

    async def is_heard() -> bool:  # each server hears a moment later that somebody listens to these subjects
        try:
            await engine.put(objects.stream_name(cluster), objects.subject_of(cluster, "first"), b"", 0)
        except Conflict:  # it was stored, and the answer was not in time
            return True
        except EngineError:
            return False
        return True

    await wait_for(is_heard)
    return objects.stream_name(cluster), objects.subject_of(cluster, "a")


async def test_a_message_goes_in_behind_the_one_that_it_names_and_only_there(engine: Engine, cluster_name: str) -> None:
    name, subject = await stream(engine, cluster_name)
    assert await engine.last(name, subject) is None
    first, _ = await engine.put(name, subject, b"one", 0)
    second, _ = await engine.put(name, subject, b"two", first)
    for wrong in (0, first):
        with pytest.raises(Conflict):
            await engine.put(name, subject, b"again", wrong)
    other, _ = await engine.put(name, objects.subject_of(cluster_name, "b"), b"another chain", 0)
    assert other == second + 1
    last = await engine.last(name, subject)
    assert last is not None
    assert (last.seq, last.data) == (second, b"two")
    stored = await engine.read(name, first)
    assert stored is not None
    assert stored.data == b"one"
    assert await engine.read(name, other + 1) is None
    assert await objects.bounds(engine, cluster_name) == (first - 1, other)


async def test_a_put_into_another_stream_than_the_one_it_means_is_refused(engine: Engine, cluster_name: str) -> None:
    _, subject = await stream(engine, cluster_name)
    with pytest.raises(Refused):
        await engine.put("mooring_other_log", subject, b"", 0)


async def test_nobody_who_serves_is_down_at_once(engine: Engine, cluster_name: str) -> None:
    begun = asyncio.get_running_loop().time()
    with pytest.raises(Down):
        await engine.ask(f"mooring.{cluster_name}.cmd.nobody", b"")
    assert asyncio.get_running_loop().time() - begun < ANSWER_S / 2


async def test_a_request_is_served_at_another_node_also_after_its_link_was_dialled_anew(
    servers: EngineServers, engine: Engine, cluster_name: str
) -> None:
    subject = f"mooring.{cluster_name}.cmd.b"
    async with running_engine(servers.urls[1:], "b") as other:

        async def echo(question: Answer) -> None:
            await other.publish(question.reply, question.data + b"!")

        await other.serve(subject, echo)

        async def answered() -> bool:
            try:
                return await engine.ask(subject, b"hello") == b"hello!"
            except EngineError:  # not yet, or not any more
                return False

        await wait_for(answered)
        await other.drop()
        await wait_for(lambda: not other.up.is_set() or other.link is not None)
        await wait_for(answered)


async def test_an_answer_that_is_lost_is_unknown_and_a_black_hole_ends_the_link(
    servers: EngineServers, engine: Engine, cluster_name: str
) -> None:
    name, subject = await stream(engine, cluster_name)
    proxies = Proxies(servers.ports)
    try:
        async with running_engine(proxies.urls, "b") as other:
            proxies.lose_answers()
            with pytest.raises(Unknown):
                await other.put(name, subject, b"stored all the same", 0, timeout_s=0.4)

            async def stored() -> bool:
                return await engine.last(name, subject) is not None

            await wait_for(stored)
            await wait_for(lambda: not other.up.is_set(), 60, "the silence ends the link")
            with pytest.raises(Down):
                await other.put(name, subject, b"", 0)
            proxies.cut()
            proxies.pass_on()
            await asyncio.wait_for(other.up.wait(), 60)
            with pytest.raises(Conflict):
                await other.put(name, subject, b"", 0)
    finally:
        proxies.close()


async def test_the_next_server_is_dialled_when_one_is_killed(servers: EngineServers, cluster_name: str) -> None:
    async with running_engine(servers.urls) as engine:
        killed = engine.url  # the first one, unless that was too busy to welcome anybody in time
        servers.kill(servers.urls.index(killed), signal.SIGKILL)
        await wait_for(lambda: engine.link is not None and engine.url != killed)


class Flapping:
    """A server on loopback that welcomes whoever comes, and ends each link at once.

    Attributes:
        links: When each of them ended, by the loop's clock.
    """

    def __init__(self) -> None:
        self.links: list[float] = []

    async def _welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id":"f","version":"2.10.0","headers":true,"max_payload":1048576}\r\n')
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"PING\r\n")
            writer.write(b"PONG\r\n")
            await writer.drain()
            self.links.append(asyncio.get_running_loop().time())
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        """Serve; yields its url."""
        server = await asyncio.start_server(self._welcome, "127.0.0.1", 0)
        try:
            yield f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            await server.wait_closed()


async def test_the_next_server_has_its_turn_where_one_ends_each_link_at_once(servers: EngineServers) -> None:
    flapping = Flapping()
    async with flapping.running() as url:
        engine = Engine(EngineSettings(urls=[url, servers.urls[0]], node="a"))
        running = asyncio.create_task(engine.run())
        await wait_for(lambda: engine.link is not None and engine.url == servers.urls[0])
        running.cancel()
        await asyncio.wait({running})


async def test_links_that_end_at_once_are_dialled_with_longer_and_longer_pauses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first_s = 0.02
    monkeypatch.setattr("mooring_service.cluster.engine.REDIAL_S", (first_s, 600.0))
    monkeypatch.setattr("mooring_service.cluster.engine.LASTS_S", 600.0)  # on a busy machine, too, each ends at once
    flapping = Flapping()
    async with flapping.running() as url:
        engine = Engine(EngineSettings(urls=[url], node="a"))
        running = asyncio.create_task(engine.run())
        await wait_for(lambda: len(flapping.links) > 6)
        running.cancel()
        await asyncio.wait({running})
    pauses = [after - before for before, after in itertools.pairwise(flapping.links)]
    assert all(pause > 0.9 * first_s * 2**number for number, pause in enumerate(pauses)), pauses


@rounds(4, 40)
@pytest.mark.timeout(300)
async def test_a_link_that_breaks_under_load_is_dialled_anew(
    servers: EngineServers, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mooring_service.cluster.engine.REDIAL_S", (0.1, 0.1))  # none of them lasts
    ways = Proxies(servers.ports[:1])
    flooded = asyncio.Event()

    async def flood(engine: Engine) -> None:
        while not flooded.is_set():  # nats-py swallows a cancellation
            with contextlib.suppress(EngineError):
                for _ in range(50):
                    await engine.publish("nobody.listens", bytes(50_000))
            await asyncio.sleep(0)

    try:
        async with running_engine(ways.urls, "a") as engine:
            flooding = asyncio.create_task(flood(engine))
            for number in range(rounds):
                link = await wait_for(lambda: engine.link)
                await asyncio.sleep(random.uniform(0, 0.05))
                ways.cut()
                await wait_for(lambda: engine.link not in (link, None), 60, f"another link after cut {number}")  # noqa: B023
            flooded.set()
            await flooding
        await wait_for(lambda: len(asyncio.all_tasks()) == 1, 60, "no task of a broken link is left")
    finally:
        ways.close()


async def test_what_is_given_up_on_a_link_that_takes_nothing_any_more_does_not_wait_for_it(
    servers: EngineServers,
) -> None:
    async def ignored(_: Answer) -> None:
        pass

    ways = Proxies(servers.ports[:1])
    try:
        async with running_engine(ways.urls, "a") as engine:
            link = engine.link
            assert link is not None
            first = await engine.subscribe(link, "nobody.speaks", ignored)
            ways.hold()
            for _ in range(PENDING_BYTES * 3 // 4 // 64_000):  # more than the kernel holds, less than the client does
                await engine.publish("nobody.listens", bytes(64_000))
            # Its writer's turns are bounded, too: behind so many nothing is said any more, and nobody knows that the link is gone.
            begun = (engine.subscribe(link, f"nobody.speaks.{number}", ignored) for number in range(2_000))
            await asyncio.gather(*begun, return_exceptions=True)
            giving_up = asyncio.create_task(engine.unsubscribe(first))
            done, _ = await asyncio.wait({giving_up}, timeout=30)  # without a cancellation, which nats-py swallows
            ways.pass_on()
            await giving_up
            assert done
    finally:
        ways.close()


async def test_a_request_that_fails_while_who_waits_for_it_is_cancelled_is_told_to_nobody() -> None:
    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(context["message"]))
    engine = Engine(EngineSettings(urls=[], node="a"))
    engine.link = Link()
    fails = loop.create_future()

    async def request(_: object) -> None:
        await fails
        raise TimeoutError("no answer")

    waiting = asyncio.create_task(engine._on_link(request))
    await asyncio.sleep(0.01)
    fails.set_result(None)
    await asyncio.sleep(0)  # it has failed, and who waits is about to be woken
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    del waiting
    for _ in range(3):  # until the loop lets go of it, too
        await asyncio.sleep(0)
        gc.collect()
    assert told == []
