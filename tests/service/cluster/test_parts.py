"""An addition in parts, as it is read: nothing of it is kept for itself where its parts follow each other, and it is told once, wherever a reader stops."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mooring.events import Kind
from mooring_service.cluster import message as wire
from mooring_service.cluster.engine import Engine
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.objects import stream_name, subject_of
from mooring_service.cluster.replicator import Identity, Replicator
from mooring_service.cluster.tail import Unwritten
from mooring_service.journal.addition import encode_addition
from mooring_service.journal.batch import Append
from mooring_service.journal.folded import Folded, Pair
from tests.cluster_kit.nodes import running_nodes
from tests.cluster_kit.servers import EngineServers
from tests.conftest import wait_for

PARTS = 3
DONE_S = 60.0


def addition(size: int, *connections: int) -> bytes:
    body = encode_addition(
        Append(
            worker="w",
            connections=b"".join(one.to_bytes(8, "little") for one in connections),
            kinds=bytes([Kind.onMessage] * len(connections)),
            bodies=b"\n".join(b'"' + b"x" * size + b'"' for _ in connections),
        )
    )
    assert body is not None
    return body


LARGE, SMALL = addition(wire.PART_BYTES * (PARTS - 1), 1), addition(10, 2)


def writer(node: str) -> Replicator:
    count = itertools.count()
    who = Identity(node, f"{node}0", b"rrrr", frozenset({b"rrrr"}))
    return Replicator(who, "e", 0, 0, 0.0, lambda: b"%04d" % next(count))


def log_of(turns: str) -> list[tuple[str, bytes]]:
    """Whoever's turn it is publishes one message: `a` a large addition, again and again, in parts, `b` a small one."""
    writers = {name: writer(name) for name in "ab"}
    found = []
    for seq, name in enumerate(turns, 1):
        one = writers[name]
        message = one.part(0.0) if one.in_parts else one.add([LARGE if name == "a" else SMALL], 0.0)
        found.append((f"mooring.c.log.{name}", wire.encode(message)))
        one.acked(seq, seq - 1)
    return found


class File:
    """What is kept of a log: as `cluster.db`, written by message, so a reader that starts again finds what was written."""

    def __init__(self) -> None:
        self.applied = 0
        self.values: dict[Pair, bytes] = {}
        self.added: list[tuple[int, bytes]] = []
        self.pieces = 0  # that were ever written

    def read(self, log: list[tuple[str, bytes]], until: int) -> None:
        """Read on, up to a message; what is not written then is lost."""
        fold, unwritten = Fold(Folded(self.applied, dict(self.values))), Unwritten()
        for seq in range(self.applied + 1, until + 1):
            folding = unwritten.take(fold.take(seq, *log[seq - 1], 1))
            if folding is None:
                continue
            self.applied = folding.seq
            self.added += [(folding.seq, append.bodies) for append in folding.appends]
            for pair, value in folding.changes.items():
                if value is None:
                    self.values.pop(pair, None)
                else:
                    self.values[pair] = value
                    self.pieces += pair[0] == "part"


def test_parts_that_follow_each_other_are_not_kept_one_by_one() -> None:
    file, log = File(), log_of("b" + "a" * 2 * PARTS + "b")
    file.read(log, len(log))
    assert [seq for seq, _ in file.added] == [1, 1 + PARTS, 1 + 2 * PARTS, 2 + 2 * PARTS]
    assert file.pieces == 0


@pytest.mark.parametrize("at", range(PARTS + 1))
def test_an_addition_is_told_once_wherever_its_reader_stops_and_whatever_comes_between(at: int) -> None:
    log = log_of("b" + "a" * at + "b" + "a" * (PARTS - at) + "b")
    whole = File()
    whole.read(log, len(log))
    assert len(whole.added) == 4 and (whole.pieces > 0) is (0 < at < PARTS)
    for first, second in itertools.combinations(range(1, len(log) + 1), 2):
        file = File()
        for until in (first, second, len(log)):
            file.read(log, until)
        assert (file.added, file.values, file.applied) == (whole.added, whole.values, whole.applied)


async def test_who_waits_for_a_part_does_not_wait_for_the_next_one(
    servers: EngineServers, engine: Engine, cluster_name: str, tmp_path: Path
) -> None:
    async with running_nodes(tmp_path, cluster_name, servers.urls, "b") as nodes:
        tail, fold, chain = nodes["b"].cluster.tail, nodes["b"].cluster.fold, writer("x")
        for index in range(PARTS):
            message = chain.part(0.0) if index else chain.add([LARGE], 0.0)
            data = wire.encode(message)
            seq, _ = await engine.put(stream_name(cluster_name), subject_of(cluster_name, "x"), data, message.prev)
            chain.acked(seq, 0)
            if index % 2:
                await wait_for(lambda seq=seq: fold.applied >= seq, DONE_S)  # type: ignore[misc]
            assert await tail.reach(seq, DONE_S)
        assert [who for _, who, _ in nodes["b"].ids()] == [1], "the whole of it is told"
