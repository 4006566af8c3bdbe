"""What a run has to do with: three services that are nodes, their ways to the engine, the load on them; and whether the law held at the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from mooring.events import Kind
from mooring_service.cluster import objects
from tests.bench.chaos.feed import Feed
from tests.bench.chaos.reader import Reader, position_in
from tests.cluster_kit import services
from tests.cluster_kit.checker import Row, check
from tests.cluster_kit.nodes import THREE, running_engine
from tests.cluster_kit.proxy import Proxies
from tests.cluster_kit.servers import EngineServers
from tests.cluster_kit.services import PERSIST, stop_whole
from tests.conftest import RunningService, wait_for

NAMES = "abc"
CONNECTIONS, RATE = 240, 3_000
OPENS = 16  # at once
SETTLE_S = 150.0
BOTH_S = 0.05  # two sockets of a connection for longer than this are two; one may be seen to close behind the next one's opening

_NUMBER = re.compile(rb'"data":"(\d+)\.')


class World:
    """The nodes of one run, what was done to them, and what is expected.

    Args:
        chosen: What is random in the run.
        dead_after: Of `[cluster]`; the faults last as it says.
        max_age: How many seconds the log keeps; None: as ever.

    Attributes:
        running: Names of the nodes that are meant to run.
        replaced: Names of those whose state directory is not the one that it was.
        began: When the last fault began, of which takeovers are to follow (`time.time`).
        events, lost, took_s: Of the log; how many lives were found dead; from `began` to the last opening of what persists.
        exact: The heir of `heir` was killed with the ends committed and unpublished.
    """

    def __init__(
        self,
        folder: Path,
        servers: EngineServers,
        cluster: str,
        chosen: random.Random,
        *,
        dead_after: float,
        unsure: str,
        rate: float = RATE,
        connections: int = CONNECTIONS,
        max_age: float | None = None,
    ) -> None:
        self.folder, self.servers, self.cluster, self.chosen = folder, servers, cluster, chosen
        self.dead_after, self.unsure, self.connections, self.max_age = dead_after, unsure, connections, max_age
        self.nodes = services.Nodes(folder, cluster, servers)
        self.feed = Feed(rate)
        self.running: set[str] = set()
        self.replaced: set[str] = set()
        self.kept: set[int] = set()
        self.began = 0.0
        self.events = 0
        self.lost = 0
        self.took_s = 0.0
        self.exact = False
        self._ways: dict[str, Proxies] = {}
        self._opened = 0

    @contextlib.asynccontextmanager
    async def begun(self) -> AsyncIterator[Reader]:
        """Everything runs, and is under load; all of it ends with the block."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._clean_up)
            async with running_engine(self.servers.urls) as engine:
                keeps = THREE if self.max_age is None else msgspec.structs.replace(THREE, max_age_s=self.max_age)
                await objects.create(engine, self.cluster, keeps)
            for name in NAMES:
                self._ways[name] = Proxies(self.servers.ports)
            await asyncio.gather(*(self._begin(name) for name in NAMES))
            await stack.enter_async_context(self.feed)
            await self.fill(persist=True)
            await wait_for(lambda: self.feed.open_count == self.connections, SETTLE_S, "all are open")
            await self._until_equal()
            self.feed.flowing.set()
            yield await stack.enter_async_context(
                Reader(lambda: [self.nodes.all[one] for one in self.running], self.chosen)
            )

    async def _begin(self, name: str) -> None:
        settings = {"engine": self._ways[name].urls, "dead_after": self.dead_after, "unsure": self.unsure}
        await self.nodes.begin(name, **settings)
        self.running.add(name)

    async def _clean_up(self) -> None:
        for service in self.nodes.all.values():
            if service.process is not None and service.process.poll() is None:
                service.process.send_signal(signal.SIGKILL)
        for service in self.nodes.all.values():
            await service.clean_up()
        for way in self._ways.values():
            way.close()

    # What faults are made of

    def after(self, seconds: float) -> float:
        """Return a time that was chosen for nodes that are missed after 15 s, as long as `dead_after` makes it."""
        return seconds * self.dead_after / 15

    async def rest(self, least: float, most: float | None = None) -> None:
        """Sleep for `after` of so many seconds, or of something between."""
        await asyncio.sleep(self.after(least if most is None else self.chosen.uniform(least, most)))

    def one(self, *others: str) -> str:
        """Choose a node that runs, and is none of these."""
        return self.chosen.choice(sorted(self.running - set(others)))

    def mark(self) -> None:
        """A fault begins."""
        self.began = time.time()

    async def kill(self, name: str) -> None:
        """Kill a service and the processes of its workers."""
        self.running.discard(name)
        await services.kill(self.nodes.all[name])

    async def kill_service(self, name: str) -> None:
        """Kill a service alone: its workers go on."""
        self.running.discard(name)
        await self.nodes.all[name].kill()

    async def start(self, *names: str) -> None:
        """Start nodes again, and wait until they have their places."""
        found = [self.nodes.all[name] for name in names]
        await asyncio.gather(*(service.start() for service in found))
        self.running.update(names)
        await asyncio.gather(*(self.until_ready(name) for name in names))

    async def until_ready(self, name: str) -> None:
        """Wait until a node serves everything."""
        service = self.nodes.all[name]
        await wait_for(service.is_ready, SETTLE_S, f"{name} is ready")

    def freeze(self, name: str) -> list[int]:
        """Stop all processes of a node; return them."""
        self.running.discard(name)
        return stop_whole(self.nodes.all[name])

    async def thaw(self, name: str, pids: list[int]) -> None:
        """Have a node go on."""
        for pid in reversed(pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        self.running.add(name)
        await self.until_ready(name)

    def way(self, name: str) -> Proxies:
        """Return the way of a node to the engine."""
        return self._ways[name]

    def log_size(self, name: str) -> int:
        """Return how much a service has logged."""
        path = self.nodes.all[name].log_path
        return path.stat().st_size if path.exists() else 0

    def said(self, name: str, since: int, *texts: str) -> bool:
        """Say whether a service has logged one of these behind `since`."""
        path = self.nodes.all[name].log_path
        with path.open("rb") as file:
            file.seek(since)
            found = file.read().decode(errors="replace")
        return any(text in found for text in texts)

    async def slot(self, name: str) -> int:
        """Return from which slot a node gives out ids."""
        told = await self.nodes.all[name].get("/v1/cluster")
        return next(int(one["slot"]) for one in told["nodes"] if one["name"] == name)

    async def fill(self, *, persist: bool = False) -> None:
        """Open connections at the nodes that run, in turns and at two workers of each, until all sockets are there; every other one persists if `persist`."""
        missing = max(0, self.connections - self.feed.open_count)
        turns = asyncio.Semaphore(OPENS)

        async def open_one(number: int) -> None:
            name = sorted(self.running)[number % len(self.running)]
            service = self.nodes.all[name]
            again = number // len(NAMES)
            options: dict[str, Any] = PERSIST if persist and again % 2 else {}
            if again % 4 >= 2:
                options = {**options, "worker": f"second-{name}"}
            async with (
                turns,
                service.client.post("/v1/connections", json={"url": f"{self.feed.url}{number}", **options}) as response,
            ):
                told = await response.json()
                if response.status == 201 and persist and again % 2:
                    self.kept.add(told["id"])
                assert response.status == 201 or not persist, told

        first, self._opened = self._opened, self._opened + missing
        await asyncio.gather(*(open_one(number) for number in range(first, first + missing)))

    # What must be so at the end

    async def verify(self, reader: Reader) -> list[str]:
        """Wait until all has come to rest, end everything, and return what is wrong."""
        wrong: list[str] = []
        self.feed.flowing.clear()
        await self._until_rest()
        try:
            await self._until_equal()
        except AssertionError as exc:
            wrong.append(f"not equal: {exc} {await self._differences()}"[:600])
        wrong += [
            f"{one} ended with {self.nodes.all[one].process.poll()}"
            for one in sorted(self.running)
            if self._is_gone(one)
        ]
        told = await self._any().get("/v1/events?after=start&limit=1000&kind=nodeLost")
        lost = [event["event"]["node"] for event in told["events"]]
        self.lost = len(lost)
        await self._until_read(reader)
        living = sorted(self.running)
        for name in living:
            await services.kill(self.nodes.all[name])
        wrong += await self._check(living, frozenset(NAMES) if self.max_age else frozenset(lost), reader)
        wrong += [f"{name}: {text}" for name in NAMES for text in self._tracebacks(name)]
        if self.unsure == "stop":
            wrong += [f"{path} had two sockets for {s:.2f} s" for path, s in self.feed.overlap_s.items() if s > BOTH_S][
                :3
            ]
        return wrong

    async def _check(self, living: list[str], given_up: frozenset[str], reader: Reader) -> list[str]:
        """Say what the checker finds in what there is of those that lived at the end, and of the others."""
        rows: list[Row] = []
        dead = [name for name in NAMES if name not in living]
        async with running_engine(self.servers.urls) as engine:
            for names, partial in ((living, False), (dead, True)):
                try:
                    rows = await check(
                        engine, self.cluster, {name: self.folder / name for name in names}, partial=partial, cut=bool(self.max_age),
                        given_up=given_up | frozenset(dead), replaced=frozenset(self.replaced),
                    )  # fmt: skip
                except AssertionError as exc:
                    return [str(exc)[:600] or "the checker"]
        return await asyncio.to_thread(self._look_at, rows, reader)

    def _look_at(self, rows: list[Row], reader: Reader) -> list[str]:
        self.events = len(rows)
        wrong = []
        last: dict[int, int] = {}
        for _, connection, kind, body in rows:
            if kind == Kind.onMessage and (found := _NUMBER.search(body)):
                number = int(found[1])
                if number <= last.get(connection, 0):
                    wrong.append(f"{connection} has message {number} behind {last[connection]}")
                last[connection] = number
        if self.began:
            back = [time_of(body) for _, _, kind, body in rows if kind == Kind.onReconnect]
            self.took_s = max((one - self.began for one in back if one > self.began), default=0.0)
        if not self.max_age:
            told = [row[0] for row in rows][: len(reader.ids)]
            if reader.gaps or reader.ids != told:
                at = next((k for k, (one, other) in enumerate(zip(reader.ids, told, strict=False)) if one != other), -1)
                wrong.append(
                    f"a subscriber had {len(reader.ids)} of {len(told)} events and {reader.gaps} gaps; other at {at}: {reader.ids[at : at + 2]} {told[at : at + 2]}"
                )
        elif reader.ids != sorted(set(reader.ids)):
            wrong.append("a subscriber had an event twice")
        return wrong[:5]

    def _tracebacks(self, name: str) -> Iterable[str]:
        texts = [
            self.nodes.all[name].log(),
            *(path.read_text(errors="replace") for path in (self.folder / name / "logs").glob("*.log")),
        ]
        for text in texts:
            if (at := text.find("Traceback (most recent")) >= 0:
                yield text[at - 200 : at + 1500]

    def _is_gone(self, name: str) -> bool:
        process = self.nodes.all[name].process
        return process is None or process.poll() is not None

    def _any(self) -> RunningService:
        return self.nodes.all[min(self.running)]

    async def _until_rest(self) -> None:
        """All that was committed is in the log, and read everywhere; what was given up for its deaths is started again."""
        for name in sorted(self.running):
            await self.until_ready(name)

        async def is_at_rest() -> bool:
            told = [await self.nodes.all[name].get("/v1/cluster") for name in sorted(self.running)]
            return not any(one["unreplicated"]["additions"] or one["log"]["pending"] for one in told)

        await wait_for(is_at_rest, SETTLE_S, "all is acknowledged and read")
        for worker in (await self._any().get("/v1/workers"))["workers"]:
            if worker["status"] == "Failed":
                await self._any().call("PUT", f"/v1/workers/{worker['name']}", None)

    async def _until_equal(self) -> None:
        async def is_equal() -> bool:
            return not await self._differences()

        await wait_for(is_equal, SETTLE_S, "all nodes tell the same, and the sockets, too")

    async def _differences(self) -> list[str]:
        """Return in what nodes' directories differ from each other, and from the sockets that there are."""
        found = []
        for name in sorted(self.running):
            connections: list[dict[str, Any]] = []
            after = ""
            while True:
                page = await self.nodes.all[name].get(f"/v1/connections?limit=1000{after}")
                connections += page["connections"]
                if not page.get("next"):
                    break
                after = f"&after={page['next']}"
            told = ((one["id"], (one["status"], one["node"], one["worker"], one["lastEventId"])) for one in connections)
            found.append((name, {connection: what for connection, what in told if what[0] != "Closed"}))
        wrong = []
        name, first = found[0]
        for other, told in found[1:]:
            wrong += [
                f"{one} is {first.get(one)} at {name} and {told.get(one)} at {other}"
                for one in first.keys() | told.keys()
                if first.get(one) != told.get(one)
            ][:2]
        wrong += [
            f"{one}, which persists, is {first.get(one)}"
            for one in self.kept
            if first.get(one, ("",))[0] != "Connected"
        ][:3]
        sockets = sum(len(held) for held in self.feed.sockets.values())
        if sockets != len(first):
            wrong.append(f"{len(first)} connections are told and {sockets} sockets are open")
        return wrong

    async def _until_read(self, reader: Reader) -> None:
        records = (await self._any().get("/v1/connections?limit=1000&status=Connected"))["connections"]
        last = max(position_in(one["lastEventId"]) for one in records if one["lastEventId"])
        await wait_for(lambda: reader.ids and reader.ids[-1] >= last, SETTLE_S, "the subscriber has read all")


def time_of(body: bytes) -> float:
    """Return when an event was, as `time.time` counts."""
    found = re.search(rb'"time":"([^"]+)"', body)
    assert found is not None, body[:80]
    return datetime.fromisoformat(found[1].decode()).timestamp()
