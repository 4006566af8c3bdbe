"""top: rates, queues and memory, again and again."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import click
from rich.console import Group
from rich.live import Live
from rich.text import Text

from mooring_api.client import ApiError, Client, ServiceAway
from mooring_api.commands.tables import Column, console, table
from mooring_api.commands.target import Target, as_json, check_node, of_node, show_json
from mooring_api.commands.words import duration, seconds_of
from mooring_api.commands.workers import columns_of, rows_of
from mooring_service.records import ConnectionRecord, WorkerRecord

STARTING = 503  # what a service says that was just restarted, or is about to stop
RATE_COLUMNS = (
    Column("WORKER", flexible=True),
    Column("CONNS", right=True),
    Column("DOWN", right=True),
    Column("IN/S", right=True),
    Column("OUT/S", right=True),
    Column("NEXT DIAL", expendable=1),
)


class _Totals:
    """What there is of one worker's connections: how many have not ended, how many of them are down, and what they carried."""

    def __init__(self) -> None:
        self.count = self.down = self.came = self.went = 0
        self.next_attempt_at: str | None = None
        self.phases: Counter[str] = Counter()

    def add(self, record: ConnectionRecord) -> None:
        self.count += record.status != "Closed"
        self.came += record.stats.messages_in
        self.went += record.stats.messages_out
        if record.down:
            self.down += 1
            self.phases[record.down.phase] += 1
            at = record.down.next_attempt_at
            if at is not None and (self.next_attempt_at is None or at < self.next_attempt_at):
                self.next_attempt_at = at

    def next_in_words(self, now: float) -> str:
        """Return what those that are down do, and when the next one dials."""
        waiting = [f"{count} {phase}" for phase, count in sorted(self.phases.items())]
        if self.next_attempt_at is not None:
            waiting.append(f"next in {duration(max(0.0, seconds_of(self.next_attempt_at) - now))}")
        return ", ".join(waiting)


@click.command()
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
@of_node
@as_json
@click.pass_obj
def top(target: Target, interval: float, count: int | None, node: str | None, as_json: bool) -> None:
    """Live, until it is interrupted; it goes on after a restart of the service.

    \b
    Example:  mooring top
    """

    async def look(client: Client) -> tuple[list[WorkerRecord], dict[str, _Totals]]:
        totals: dict[str, _Totals] = {}
        after = 0
        while True:
            page = await client.connections(after=after, node=node)
            for record in page.connections:
                totals.setdefault(record.worker, _Totals()).add(record)
            if page.next is None:
                found = await client.workers(node=node)
                if node is not None and not found:
                    await check_node(client, node)
                return found, totals
            after = page.next

    async def work(client: Client) -> None:
        before: dict[str, _Totals] = {}
        before_at = time.monotonic()
        looks = 0
        screen = console()
        shown = Group()
        with Live(console=screen, auto_refresh=False, screen=False, transient=not screen.is_terminal) as live:
            while True:
                try:
                    found, totals = await look(client)
                except (ApiError, ServiceAway) as exc:
                    if not looks or (isinstance(exc, ApiError) and exc.status != STARTING):
                        raise
                    # It may be restarting; on a terminal the last figures stay, with the reason why they are old.
                    if screen.is_terminal and not as_json:
                        live.update(Group(shown, Text(f"{exc}; trying again", style="yellow")), refresh=True)
                    await asyncio.sleep(interval)
                    continue
                now = time.monotonic()
                passed = max(now - before_at, 1e-9)
                lines = []
                for name, total in sorted(totals.items()):
                    was = before.get(name, total)
                    lines.append(
                        {
                            "worker": name,
                            "connections": total.count,
                            "down": total.down,
                            "inPerSecond": round(max(0, total.came - was.came) / passed, 1),
                            "outPerSecond": round(max(0, total.went - was.went) / passed, 1),
                            "nextAttemptAt": total.next_attempt_at,
                        }
                    )
                if as_json:
                    show_json({"workers": found, "rates": lines})
                else:
                    rates = table(
                        RATE_COLUMNS,
                        [
                            [
                                *map(str, list(line.values())[:-1]),
                                totals[str(line["worker"])].next_in_words(time.time()),
                            ]
                            for line in lines
                        ],
                        screen.width,
                    )
                    shown = Group(table(columns_of(found), rows_of(found), screen.width), Text(), rates)
                    if screen.is_terminal:
                        live.update(shown, refresh=True)
                    else:
                        screen.print(shown)  # one table after the other: somebody reads a pipe
                before, before_at = totals, now
                looks += 1
                if looks == count:
                    return
                await asyncio.sleep(interval)

    target.run(work)
