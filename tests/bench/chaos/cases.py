"""The faults, by name: what each does to the nodes and the engine once. Times are those of the design's prototype, where `dead_after` is 15 s."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from collections.abc import Awaitable, Callable
from functools import partial

import apsw
import msgspec

from mooring_service.cluster import message as wire
from mooring_service.cluster.chain import head_of
from mooring_service.cluster.position import slot_of
from tests.bench.chaos.rest import SETTLE_S
from tests.bench.chaos.world import NAMES, World
from tests.cluster_kit.nodes import running_engine
from tests.conftest import wait_for

KEPT_S = 20.0  # the log of `away` and `away-all` keeps so long
AWAY_S = 45.0
DECLARED, TAKEN = "is declared lost", "is being taken over"


class Case(msgspec.Struct, frozen=True):
    """`once`: it leaves nodes dead, or takes so long that it is not begun again. `max_age`: of the log. `freezes`: sockets may stay open meanwhile."""

    fault: Callable[[World], Awaitable[None]]
    once: bool = False
    max_age: float | None = None
    freezes: bool = False


async def leader(w: World) -> None:
    """The leader of the log is killed, and comes back."""
    index = await asyncio.to_thread(w.servers.leader, f"mooring_{w.cluster}_log")
    if index is not None:
        w.servers.kill(index)
        await asyncio.sleep(w.chosen.uniform(0.5, 8))
        await asyncio.to_thread(w.servers.start_all)


async def engine(w: World) -> None:
    """All servers are killed, for longer than a node may be silent."""
    for index in range(w.servers.count):
        w.servers.kill(index)
    await w.rest(20, 30)
    await asyncio.to_thread(w.servers.start_all)


async def stall(w: World) -> None:
    """One server stands still, and goes on."""
    leads = await asyncio.to_thread(w.servers.leader, f"mooring_{w.cluster}_log")
    index = w.chosen.choice([w.chosen.randrange(w.servers.count), leads or 0])
    w.servers.kill(index, signal.SIGSTOP)
    await asyncio.sleep(w.chosen.uniform(1, 10))
    w.servers.kill(index, signal.SIGCONT)


async def ack(w: World) -> None:
    """Acknowledgements are lost behind the store."""
    for _ in range(6):
        way = w.way(w.one())
        way.lose_answers()
        await asyncio.sleep(w.chosen.uniform(0.05, 1.5))
        way.cut()
        way.pass_on()
        await asyncio.sleep(w.chosen.uniform(0.5, 3))


async def restart(w: World) -> None:
    """A service is killed with something unpublished, alone or with its workers, and is back before it is missed."""
    name = w.one()
    w.way(name).hold()
    await w.rest(1, 4)
    await w.chosen.choice([w.kill, w.kill_service])(name)
    w.way(name).cut()
    w.way(name).pass_on()
    await w.rest(0.2, 4)
    await w.start(name)


async def everything(w: World) -> None:
    """All nodes and all servers are killed; all start."""
    for name in NAMES:
        await w.kill(name)
    for index in range(w.servers.count):
        w.servers.kill(index)
    await w.rest(0, 10)
    await asyncio.to_thread(w.servers.start_all)
    await w.start(*NAMES)


async def node(w: World) -> None:
    """A node is killed, and comes back when others have what it had."""
    name = w.one()
    w.mark()
    await w.kill(name)
    await w.rest(24)
    await w.start(name)


async def stop(w: World) -> None:
    """A node stands still for longer than it may be silent, and goes on."""
    name = w.one()
    w.mark()
    pids = w.freeze(name)
    await w.rest(25)
    await w.thaw(name, pids)


async def part(w: World) -> None:
    """Two nodes are cut off from the engine by a black hole."""
    two = w.chosen.sample(NAMES, 2)
    w.mark()
    for name in two:
        w.way(name).hold()
    await w.rest(28)
    for name in two:
        w.way(name).pass_on()
    for name in two:
        await w.until_ready(name)


async def edge(w: World) -> None:
    """A node is cut off for a time near to the limits, again and again."""
    for _ in range(3):
        way = w.way(w.one())
        way.hold()
        await w.rest(9, 17)
        way.pass_on()
        await w.rest(3, 8)


async def two(w: World) -> None:
    """Two nodes die within a second, and one comes back."""
    first, second = w.chosen.sample(NAMES, 2)
    w.mark()
    await w.kill(first)
    await w.rest(0, 1)
    await w.kill(second)
    await w.rest(16, 20)
    await w.start(first)
    await w.rest(20)


async def judge(w: World) -> None:
    """A node is killed; who declares it lost, or inherits from it, dies at that moment."""
    dying = w.one()
    begun = {name: w.log_size(name) for name in w.running}
    w.mark()
    await w.kill(dying)

    def acted() -> list[str]:
        return [name for name in sorted(w.running) if w.said(name, begun[name], DECLARED, TAKEN)]

    (name, *_) = await wait_for(acted, SETTLE_S, "somebody judges")
    await asyncio.sleep(w.chosen.uniform(0, 0.4))
    await w.kill(name)
    await w.rest(30)


async def heir(w: World) -> None:
    """A node is killed; its heir dies behind its commit and before its publish, and is back within two seconds."""
    dying = w.one()
    slot = await w.slot(dying)
    begun = {name: w.log_size(name) for name in w.running}
    w.mark()
    await w.kill(dying)

    def acted() -> list[str]:
        return [name for name in sorted(w.running) if w.said(name, begun[name], TAKEN)]

    (name, *_) = await wait_for(acted, SETTLE_S, "somebody inherits")
    w.way(name).hold()
    with contextlib.suppress(AssertionError):  # it had published them before
        await wait_for(partial(_has_untold, w, name, slot), 2.0)
    await w.kill(name)
    w.exact = await _has_untold(w, name, slot)
    w.way(name).cut()
    w.way(name).pass_on()
    await asyncio.sleep(1.5)
    await w.start(name)
    await w.rest(10)
    await w.start(dying)


async def _has_untold(w: World, name: str, slot: int) -> bool:
    """Say whether the journal of a node has something of connections of a slot that the log has not."""
    async with running_engine(w.servers.urls) as engine:
        head = await head_of(engine, w.cluster, name)
    assert head is not None, "it has begun"
    path = w.folder / name / "journal.db"
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        bodies = [body for (body,) in file.execute("SELECT body FROM replica WHERE rn > ?", (head.message.last,))]
    return any(slot_of(update.id) == slot for one in wire.additions(bodies) for update in one.updates)


async def behind(w: World) -> None:
    """A node is killed, and its directory, or its journal alone, is found as it was some seconds ago: the log has more of it."""
    name = w.one()
    await w.kill(name)
    state, older = w.folder / name, w.folder / f"older-{name}"
    shutil.rmtree(older, ignore_errors=True)
    shutil.copytree(state, older, ignore=shutil.ignore_patterns("*.sock"))
    await w.start(name)
    await w.fill()
    await w.rest(3, 9)
    w.mark()
    await w.kill(name)
    if w.chosen.random() < 0.5:
        shutil.rmtree(state)
        shutil.copytree(older, state)
    else:
        for path in state.glob("journal.db*"):
            path.unlink()
        for path in older.glob("journal.db*"):
            shutil.copy(path, state / path.name)
    w.replaced.add(name)
    await w.rest(0.5, 4)
    await w.start(name)
    await w.rest(20)


async def wipe(w: World) -> None:
    """A node is killed, and starts without its state directory."""
    name = w.one()
    w.mark()
    await w.kill(name)
    shutil.rmtree(w.folder / name)
    w.replaced.add(name)
    await asyncio.sleep(1)
    await w.start(name)
    await w.rest(30)


async def away(w: World) -> None:
    """A node is away for longer than the log keeps."""
    name = w.one()
    w.mark()
    await w.kill(name)
    await asyncio.sleep(AWAY_S)
    await w.start(name)


async def away_all(w: World) -> None:
    """All nodes are away for longer than the log keeps."""
    for name in NAMES:
        await w.kill(name)
    await asyncio.sleep(AWAY_S)
    w.mark()
    await w.start(*NAMES)


CASES = {
    "leader": Case(leader),
    "node": Case(node),
    "stop": Case(stop, freezes=True),
    "engine": Case(engine),
    "part": Case(part),
    "ack": Case(ack),
    "restart": Case(restart),
    "all": Case(everything),
    "stall": Case(stall),
    "two": Case(two, once=True),
    "judge": Case(judge, once=True),
    "edge": Case(edge, once=True),
    "heir": Case(heir, once=True),
    "behind": Case(behind, once=True),
    "wipe": Case(wipe, once=True),
    "away": Case(away, once=True, max_age=KEPT_S),
    "away-all": Case(away_all, once=True, max_age=KEPT_S),
}
