"""The law of the log, checked in what is there at the end: the stream, the journals, and what each node has folded.

Same ids and order everywhere; each committed addition in the log once, byte for byte; `seq` of each connection dense; at most one end, and
nothing behind it; nothing of a life behind its `lost`; everything ever shown is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import apsw

from mooring.events import Kind
from mooring_service.cluster import message as wire
from mooring_service.cluster.engine import Engine, EngineError
from mooring_service.cluster.fold import STOPPED, event_of
from mooring_service.cluster.lifetimes import FORGOTTEN
from mooring_service.cluster.message import Message
from mooring_service.cluster.objects import bounds, stream_name
from mooring_service.cluster.position import position_of
from mooring_service.cluster.pulls import Pull
from mooring_service.journal.addition import Addition

Row = tuple[int, int, int, bytes]  # position, connection, kind, body


async def read_log(engine: Engine, cluster: str) -> list[tuple[int, Message]]:
    """Return every message that the stream holds; a server that has just come back may not answer at once."""
    deadline = asyncio.get_running_loop().time() + 60
    while True:
        try:
            return await _read_log(engine, cluster)
        except EngineError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)


async def _read_log(engine: Engine, cluster: str) -> list[tuple[int, Message]]:
    first, last = await bounds(engine, cluster)
    found: list[tuple[int, Message]] = []
    pull = Pull(engine, stream_name(cluster), first)
    await pull.open()
    try:
        while not found or found[-1][0] < last:
            found += [(stored.seq, wire.decode(stored.data)) for stored in await pull.next()]
    finally:
        await pull.close()
    return found


def takes_effect(log: list[tuple[int, Message]]) -> list[tuple[int, Message, list[bytes]]]:
    """Return each message with the additions that take effect with it: those of a part with the last of them."""
    found = []
    parts: dict[str, list[bytes]] = defaultdict(list)
    for seq, message in log:
        if message.kind == wire.PART:
            part = wire.extra(message, wire.Part)
            if part.index == 0:
                parts[message.node] = []
            assert part.index == len(parts[message.node]), f"part {part.index} at {seq} does not follow"
            parts[message.node].append(wire.piece_of(message))
            whole = [b"".join(parts.pop(message.node))] if part.index == part.count - 1 else []
            found.append((seq, message, whole))
        else:
            parts.pop(message.node, None)
            found.append((seq, message, [bytes(one) for one in message.additions]))
    return found


def check_log(
    log: list[tuple[int, Message]], *, cut: bool = False
) -> tuple[list[Row], dict[tuple[str, str], dict[int, bytes]]]:
    """Check the log itself; return its events, and by life its additions. `cut`: it does not keep its beginning any more."""
    rows: list[Row] = []
    additions: dict[tuple[str, str], dict[int, bytes]] = defaultdict(dict)
    heads: dict[str, int] = {}
    over = set()
    sequences: dict[int, int] = defaultdict(int)
    ended = set()
    for seq, message, bodies in takes_effect(log):
        life = (message.node, message.life)
        assert message.prev == heads.get(message.node, message.prev), f"{message.node} at {seq} follows {message.prev}"
        heads[message.node] = seq
        assert life not in over or message.kind == wire.LOST, f"{life} goes on at {seq} after it was lost"
        is_news = life not in over
        if message.kind == wire.LOST:
            over.add(life)
        at = position_of(seq)
        for rn, body in enumerate(bodies, message.first):
            assert rn not in additions[life], f"addition {rn} of {life} is there twice"
            additions[life][rn] = body
            (addition,) = wire.additions([body])
            for row in events_of(addition, at):
                rows.append(row)
                _, connection, kind, text = row
                if connection:
                    assert connection not in ended, f"{connection} goes on after its end, at {seq}"
                    if cut and connection not in sequences:
                        sequences[connection] = sequence_of(text) - 1
                    sequences[connection] += 1
                    assert sequence_of(text) == sequences[connection], f"{connection} skips at {seq}: {text[:80]!r}"
                    if kind == Kind.onTerminate:
                        ended.add(connection)
            at += len(addition.kinds)
        if (event := event_of(message)) is not None and (message.kind == wire.UP or is_news):
            rows.append((at, 0, event.kinds[0], event.bodies))
    for life, found in additions.items():
        assert list(found) == list(range(min(found), min(found) + len(found))), f"additions of {life} have holes"
    return rows, additions


def sequence_of(body: bytes) -> int:
    """Return the number of an event among those of its connection."""
    found = re.search(rb'"seq":(\d+)', body)
    assert found is not None, body[:80]
    return int(found[1])


def events_of(addition: Addition, at: int) -> list[Row]:
    """Return the events of an addition whose first one stands at position `at`."""
    if not addition.kinds:
        return []
    bodies = addition.bodies.split(b"\n")
    ids = [
        int.from_bytes(addition.connections[k : k + 8], "little", signed=True)
        for k in range(0, len(addition.connections), 8)
    ]
    return [(at + k, ids[k], addition.kinds[k], bodies[k]) for k in range(len(bodies))]


def shown_rows(path: Path) -> list[Row]:
    """Return every event of a `cluster.db`."""
    rows: list[Row] = []
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        for first, connections, kinds, bodies in file.execute(
            "SELECT first, connections, kinds, bodies FROM batches ORDER BY first"
        ):
            addition = Addition("", "", 0, connections, kinds, bodies)
            rows += events_of(addition, first)
    return rows


def hole_of(path: Path) -> int:
    """Return the last position that a `cluster.db` was never told; 0 if it has no hole."""
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        holes = file.execute("SELECT value FROM folded WHERE kind = 'hole'").fetchall()
    return max((int(value) for (value,) in holes), default=0)


def check_journal(path: Path, lives: Mapping[str, dict[int, bytes]], *, all_of_it: bool) -> None:
    """Check that the log has of this journal what it should; `all_of_it`: nothing is still to be published."""
    published: dict[int, bytes] = {}
    for found in lives.values():
        assert not set(found) & set(published), f"{path}: an addition is in two lives"
        published |= found
    with contextlib.closing(apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)) as file:
        kept = dict(file.execute("SELECT rn, body FROM replica"))
    for rn, body in published.items():
        assert kept.get(rn, body) == body, f"{path}: addition {rn} is another in the log"
    if all_of_it:
        assert set(kept) <= set(published), f"{path}: {len(set(kept) - set(published))} additions are not in the log"


async def cut_short(engine: Engine, cluster: str, names: Iterable[str]) -> frozenset[str]:
    """Return which nodes have not ended in order with all in the log: who was killed, or a stop waited for it for two seconds in vain."""
    last = {message.node: message for _, message in await read_log(engine, cluster)}
    return frozenset(name for name in names if name not in last or not _is_lost(last[name], STOPPED))


def _is_lost(message: Message, reason: str) -> bool:
    return message.kind == wire.LOST and wire.extra(message, wire.Lost).reason == reason


async def check(
    engine: Engine,
    cluster: str,
    folders: Mapping[str, Path],
    *,
    given_up: frozenset[str] = frozenset(),
    partial: bool = False,
    replaced: frozenset[str] = frozenset(),
    cut: bool = False,
) -> list[Row]:
    """Check everything; return the events of the log.

    `given_up`: nodes of which a life may have ended with something unpublished. `partial`: nodes have stopped before they had read all.
    `replaced`: nodes whose journal is not the one that it was: what its numbers meant before is in the log alone.
    `cut`: the log does not keep its beginning any more, and nodes may have holes that end where it is kept: behind them they have all.
    """
    log = await read_log(engine, cluster)
    rows, additions = check_log(log, cut=cut)
    # Said of a life that the log has forgotten: who knows that it is over takes it for nothing, and the log cannot tell who does.
    again = {position_of(seq) for seq, message in log if _is_lost(message, FORGOTTEN)}
    for node, folder in folders.items():
        lives = {life: found for (name, life), found in additions.items() if name == node}
        if node not in replaced:
            check_journal(folder / "journal.db", lives, all_of_it=node not in given_up)
        shown = shown_rows(folder / "cluster.db")
        if cut:
            shown = [row for row in shown if row[0] not in again]
            begin = max(position_of(log[0][0]), hole_of(folder / "cluster.db") + 1)
            shown = [row for row in shown if row[0] >= begin]
            rows_here = [row for row in rows if row[0] >= begin and row[0] not in again]
            assert shown == (rows_here[: len(shown)] if partial else rows_here), _difference(node, shown, rows_here)
            continue
        assert shown == (rows[: len(shown)] if partial else rows), _difference(node, shown, rows)
    return rows


def _difference(node: str, shown: list[Row], rows: list[Row]) -> str:
    at = next(
        (k for k, (one, other) in enumerate(zip(shown, rows, strict=False)) if one != other), min(len(shown), len(rows))
    )
    return f"{node} shows {len(shown)} events, the log has {len(rows)}; they differ at {at}: {shown[at : at + 1]} {rows[at : at + 1]}"
