"""Whether the law held: everything comes to rest, everything is killed, and what is left is looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from datetime import datetime

import msgspec

from mooring.events import Kind
from tests.bench.chaos.reader import Reader, position_in
from tests.bench.chaos.rest import SETTLE_S, differences, living_of, until_equal, until_rest, until_still
from tests.bench.chaos.world import NAMES, World
from tests.cluster_kit import services
from tests.cluster_kit.checker import Row, check
from tests.cluster_kit.nodes import running_engine
from tests.conftest import wait_for

BOTH_S = 0.05  # two sockets of one connection for longer than this are two: one may be seen to close behind the next one's opening
TOLD = 600  # characters of what is wrong

_NUMBER = re.compile(rb'"data":"(\d+)\.')


class Verdict(msgspec.Struct):
    """What is `wrong`; and figures: `events` of the log, how many lives were found dead, from the fault to the last opening of what persists."""

    wrong: list[str]
    events: int = 0
    lost: int = 0
    took_s: float = 0.0


async def verify(world: World, reader: Reader, *, one_socket: bool) -> Verdict:
    """Wait until all has come to rest, end everything, and say what became of it. `one_socket`: no connection may ever have had two."""
    found = Verdict([])
    world.feed.flowing.clear()
    alive = world.alive
    await until_rest(alive)
    await until_still(alive)
    try:
        await until_equal(alive, world.feed, world.kept)
    except AssertionError:
        found.wrong.append(str(await differences(alive, world.feed, world.kept))[:TOLD])
    one = next(iter(alive.values()))
    told = await one.get("/v1/events?after=start&limit=1000&kind=nodeLost")
    lost = [event["event"]["node"] for event in told["events"]]
    found.lost = len(lost)
    last = max(position_in(what[-1]) for what in (await living_of(one)).values() if what[-1])
    await wait_for(lambda: reader.ids and reader.ids[-1] >= last, SETTLE_S, "the subscriber has read all")
    await asyncio.gather(*(services.kill(service) for service in alive.values()))
    rows = await _checked(world, frozenset(NAMES if world.max_age else lost), found)
    found.events = len(rows)
    await asyncio.to_thread(_look_at, world, rows, reader, found)
    if one_socket:
        both = [f"{path} had two sockets for {s:.2f} s" for path, s in world.feed.overlap_s.items() if s > BOTH_S]
        found.wrong += both[:3]
    found.wrong += [f"{name}: {text}" for name in NAMES for text in _tracebacks(world, name)]
    return found


async def _checked(world: World, given_up: frozenset[str], found: Verdict) -> list[Row]:
    """Have the checker look: whoever lived has all of the log, whoever is dead its beginning. Return the events of it."""
    rows: list[Row] = []
    living = world.running
    async with running_engine(world.servers.urls) as engine:
        for names, partial in ((living, False), (set(NAMES) - living, True)):
            try:
                rows = await check(
                    engine, world.cluster, {name: world.folder / name for name in sorted(names)}, partial=partial, cut=bool(world.max_age),
                    given_up=given_up | (set(NAMES) - living), replaced=frozenset(world.replaced),
                )  # fmt: skip
            except AssertionError as exc:
                found.wrong.append(str(exc)[:TOLD] or "the checker")
    return rows


def _look_at(world: World, rows: list[Row], reader: Reader, found: Verdict) -> None:
    last: dict[int, int] = {}
    for _, connection, kind, body in rows:
        if kind == Kind.onMessage and (match := _NUMBER.search(body)):
            number = int(match[1])
            if number <= last.get(connection, 0):
                found.wrong.append(f"{connection} has message {number} behind {last[connection]}")
            last[connection] = number
    back = [time_of(body) for _, _, kind, body in rows if kind == Kind.onReconnect] if world.began else []
    found.took_s = max((one - world.began for one in back if one > world.began), default=0.0)
    if world.max_age:  # what is gone before it was read is a gap
        if reader.ids != sorted(set(reader.ids)):
            found.wrong.append("a subscriber had an event twice")
        return
    told = [row[0] for row in rows][: len(reader.ids)]
    if reader.gaps or reader.ids != told:
        at = next((k for k, (one, other) in enumerate(zip(reader.ids, told, strict=False)) if one != other), -1)
        found.wrong.append(
            f"a subscriber had {reader.gaps} gaps, {len(reader.ids)} events, and other ones at {at} of {len(rows)}: {reader.ids[at : at + 2]} {told[at : at + 2]}"
        )


def _tracebacks(world: World, name: str) -> Iterable[str]:
    logs = sorted((world.folder / name / "logs").glob("*.log"))
    for text in (world.nodes.all[name].log(), *(path.read_text(errors="replace") for path in logs)):
        if (at := text.find("Traceback (most recent")) >= 0:
            yield text[max(0, at - 200) : at + 1_500]


def time_of(body: bytes) -> float:
    """Return when an event was, as `time.time` counts."""
    match = re.search(rb'"time":"([^"]+)"', body)
    assert match is not None, body[:80]
    return datetime.fromisoformat(match[1].decode()).timestamp()
