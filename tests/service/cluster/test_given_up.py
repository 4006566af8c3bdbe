"""What a node gives up, and is asked for again before the log has that: it is held again, or another's, and never both."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from pathlib import Path

import apsw
import msgspec
import pytest

from mooring.errors import JournalUnavailable
from mooring_service.cluster.claims import Holder
from mooring_service.cluster.engine import Engine, EngineSettings
from mooring_service.cluster.fold import Fold, NodeState
from mooring_service.cluster.keys import Keys
from mooring_service.cluster.placement import Placement
from mooring_service.cluster_errors import Elsewhere
from mooring_service.config import JournalConfig
from mooring_service.journal.folded import Folded
from mooring_service.journal.replica import Replica
from mooring_service.journal.sparse import SparseJournal
from mooring_service.journal.sqlite import SqliteJournal
from tests.cluster_kit.nodes import Node, NoEstate, running_nodes, settled
from tests.cluster_kit.servers import EngineServers
from tests.conftest import rounds, wait_for
from tests.service.cluster.test_outage import own_ways

ASKED, ANOTHER = b"what was asked", b"something else"
FOUND_S = 90.0


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is given the time that a claim takes: no test here is about that."""
    monkeypatch.setattr("mooring_service.cluster.placement.CLAIM_S", 60.0)


def keys_of(node: Node) -> Keys:
    cluster = node.cluster
    return Keys(cluster.placement, node.journal, cluster.journal, cluster.fold, node.name)


async def claim(node: Node, keys: Keys, key: str, asked: bytes, *, anywhere: bool) -> bool:
    """Claim a key in the log, and then here, as who does a request; say whether it is to be done."""
    known = await keys.claim(key, asked, anywhere=anywhere) or await node.journal.claim_key(key, asked)
    return known is None


@pytest.mark.parametrize("anywhere", [True, False])
@rounds(5, 100)
async def test_a_key_that_is_used_again_as_soon_as_its_request_has_failed_stands_for_what_is_done_then(
    servers: EngineServers, cluster_name: str, tmp_path: Path, rounds: int, anywhere: bool
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes.values()
        of_a, of_b = keys_of(a), keys_of(b)
        names = [f"key {number}" for number in range(rounds)]
        for key in names:
            assert await claim(a, of_a, key, ASKED, anywhere=anywhere)
            await of_a.answer(key, ASKED, None)  # "later": it may be asked again
            assert await claim(a, of_a, key, ASKED, anywhere=anywhere)
        await settled(nodes)
        for key in names:  # it is being done
            with pytest.raises(Elsewhere, match="'a'"):
                await of_b.claim(key, ASKED, anywhere=True)
            await of_a.answer(key, ASKED, b"done")
        await settled(nodes)
        for key in names:
            found = await b.cluster.journal.find_key(key)
            assert found is not None and found.answer == b"done"


@pytest.mark.parametrize("anywhere", [True, False])
async def test_a_key_whose_request_has_failed_is_free_for_another_request_at_once(
    servers: EngineServers, cluster_name: str, tmp_path: Path, anywhere: bool
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        a = nodes["a"]
        keys = keys_of(a)
        assert await claim(a, keys, "key", ASKED, anywhere=True)
        await keys.answer("key", ASKED, None)
        assert await claim(a, keys, "key", ANOTHER, anywhere=anywhere)
        await keys.answer("key", ANOTHER, b"done")
        await settled(nodes)
        found = await a.cluster.journal.find_key("key")
        assert found is not None and (found.fingerprint, found.answer) == (ANOTHER, b"done")


async def test_of_two_that_use_a_key_at_once_which_stands_for_something_else_elsewhere_none_is_done(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab") as nodes:
        a, b = nodes.values()
        assert await claim(a, keys_of(a), "key", ASKED, anywhere=True)
        await settled(nodes)
        keys = keys_of(b)
        done = await asyncio.gather(*(claim(b, keys, "key", ANOTHER, anywhere=True) for _ in range(3)))
        assert done == [False, False, False]


async def test_a_worker_that_two_give_up_while_it_is_asked_for_between_them_is_held(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "a") as nodes:
        placement = nodes["a"].cluster.placement
        for _ in range(5):
            await placement.hold("desk")
            await asyncio.gather(placement.release("desk"), placement.hold("desk"), placement.release("desk"))
            await settled(nodes)
            assert placement.holds("desk"), "who asked was told so"


class Slow(NoEstate):
    """Of a worker of which nothing persists, and that takes its time to be taken over."""

    left = True

    def __init__(self) -> None:
        self.begun, self.told = asyncio.Event(), asyncio.Event()

    async def take(self, worker: str) -> bool:
        self.begun.set()
        await self.told.wait()
        return False


async def test_who_wants_a_worker_that_its_heir_is_about_to_give_up_has_it(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "ab", dead_after=600) as nodes:
        a = nodes["a"]
        b = nodes["b"]
        await b.cluster.placement.hold("desk")
        await settled(nodes)
        estate = a.estate = a.cluster.heirs._estate = Slow()
        await b.stop()  # in order: nobody waits for its death
        del nodes["b"]
        await asyncio.wait_for(estate.begun.wait(), FOUND_S)
        placement = a.cluster.placement

        def is_inherited() -> bool:
            held = a.cluster.fold.claims.workers["desk"]
            return held.node == "a" and held.inherited

        await wait_for(is_inherited, FOUND_S)
        asked = [asyncio.create_task(placement.hold("desk")) for _ in range(3)]
        await asyncio.sleep(0)  # each of them waits
        estate.told.set()
        await asyncio.wait_for(asyncio.gather(*asked), FOUND_S)
        await settled(nodes)
        assert placement.holds("desk") and not a.cluster.fold.claims.workers["desk"].inherited


async def test_what_was_given_up_in_a_life_that_ends_before_the_log_has_it_is_not_given_up_in_the_next_one(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    async with (
        running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes,
        own_ways(servers, tmp_path, cluster_name) as (a, ways),
    ):
        await a.start()
        await a.ready()
        placement, life = a.cluster.placement, a.cluster.life
        assert await claim(a, keys_of(a), "key", ASKED, anywhere=True)
        ways.hold()
        await keys_of(a).answer("key", ASKED, None)
        claims = nodes["b"].cluster.fold.claims
        await wait_for(lambda: claims.is_over("a", life), FOUND_S, "it is found dead")
        ways.cut()
        ways.pass_on()
        await wait_for(lambda: a.cluster.life != life, FOUND_S, "a new life")
        await a.ready()
        assert await claim(a, keys_of(a), "key", ASKED, anywhere=True)
        held = placement.key("key")
        assert held is not None and placement.is_mine(held)


async def test_what_was_given_up_in_a_gap_that_a_copy_closes_is_not_given_up_for_ever(tmp_path: Path) -> None:
    path, fold = tmp_path / "journal.db", Fold(Folded(0, {}))
    journal = SqliteJournal(path, JournalConfig(), replica=Replica(path))
    placement = Placement(Engine(EngineSettings(urls=[], node="a")), journal, fold, "a", lambda: "life")
    await journal.start(lambda _: None, lambda _: None)
    held = {kind: msgspec.msgpack.encode(Holder("a", "life")) for kind in ("key", "worker")}

    def cross(last: int) -> None:
        """Go on from what a peer has folded: the first `last` additions of this node, and that it holds both again."""
        node = msgspec.msgpack.encode(NodeState("a", "life", last=last))
        fold.recover(Folded(9, {("node", "a"): node, ("key", "k"): held["key"], ("worker", "desk"): held["worker"]}))

    try:
        cross(0)
        given_up = placement.release_key("k"), asyncio.ensure_future(placement.release("desk"))
        assert placement.key("k") is None
        await asyncio.gather(*given_up)
        cross(1)
        assert placement.key("k") is not None and not placement.holds("desk"), "one of them is in the log"
        cross(2)
        assert placement.key("k") is not None and placement.holds("desk")
        await placement.release_key("k")
        assert placement.key("k") is None and placement.holds("desk"), "and it may be given up again"
    finally:
        await journal.stop()


async def fail_to_give_up(folder: Path) -> None:
    """Give a key up where nothing can be written, and stop then."""
    journal, fold = SqliteJournal(folder / "journal.db", JournalConfig()), Fold(Folded(0, {}))
    placement = Placement(Engine(EngineSettings(urls=[], node="a")), journal, fold, "a", lambda: "life")
    keys = Keys(placement, journal, SparseJournal(folder / "cluster.db", JournalConfig()), fold, "a")
    await journal.start(lambda _: None, lambda _: None)
    with contextlib.closing(apsw.Connection(str(folder / "journal.db"))) as other:
        other.set_busy_timeout(60_000)
        other.execute("BEGIN IMMEDIATE")  # nothing is committed there
        with pytest.raises(JournalUnavailable):
            await keys.answer("key", ASKED, None)
        await journal.stop()


async def test_a_key_that_cannot_be_given_up_before_the_end_leaves_no_failure_that_nobody_looks_at(
    tmp_path: Path,
) -> None:
    told: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await fail_to_give_up(tmp_path)
    gc.collect()
    assert told == []
