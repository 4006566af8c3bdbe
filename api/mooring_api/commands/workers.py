"""workers, call, kill, top."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mooring_api.client import Client, ServiceAway
from mooring_api.commands.tables import Column, console, plain, table
from mooring_api.commands.target import Target, as_json, known_worker, plural, show_json
from mooring_api.commands.words import duration, seconds_of
from mooring_api.commands.words import status as status_text
from mooring_service.records import ConnectionRecord, WorkerRecord

COLUMNS = (
    Column("NAME", flexible=True),
    Column("STATUS"),
    Column("PID", right=True, expendable=4),
    Column("CONNS", right=True),
    Column("MAILBOX", right=True, expendable=1),
    Column("OUTBOX", right=True, expendable=2),
    Column("RESTARTS", right=True, expendable=6),
    Column("CPU", right=True, expendable=5),
    Column("MEMORY", right=True),
    Column("RUNNING", expendable=3, widest=30),
)


RATE_COLUMNS = (
    Column("WORKER", flexible=True),
    Column("OPEN", right=True),
    Column("DOWN", right=True),
    Column("IN/S", right=True),
    Column("OUT/S", right=True),
    Column("NEXT DIAL", expendable=1),
)


class _Totals:
    """What there is of one worker's connections: how many are open, how many of them are down, and what they carried."""

    def __init__(self) -> None:
        self.open = self.down = self.came = self.went = 0
        self.next_attempt_at: str | None = None
        self.phases: Counter[str] = Counter()

    def add(self, record: ConnectionRecord) -> None:
        self.open += record.status != "Closed"
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


def _now(record: WorkerRecord) -> str:
    if record.running is not None:
        return f"{record.running.name} {record.running.seconds:.1f}s"
    return "" if record.status == "Running" else plain(record.reason or "")


def _table(found: list[WorkerRecord], width: int) -> Table:
    clustered = any(record.node for record in found)
    rows = [
        (
            record.name,
            *((record.node or "",) if clustered else ()),
            status_text("Stopping" if record.draining else record.status, "Draining" if record.draining else None),
            str(record.pid or ""),
            str(record.connections),
            str(record.mailbox),
            str(record.outbox),
            str(record.restarts),
            f"{record.cpu:.1f}s",
            f"{record.rss / 2**20:.0f}M",
            _now(record),
        )
        for record in found
    ]
    columns = (COLUMNS[0], Column("NODE"), *COLUMNS[1:]) if clustered else COLUMNS
    return table(columns, rows, width)


class _WorkersGroup(click.Group):
    """`mooring workers` alone lists; its sub-commands act on one."""


@click.group("workers", cls=_WorkersGroup, invoke_without_command=True)
@as_json
@click.pass_context
def workers(ctx: click.Context, as_json: bool) -> None:
    """Alone it lists; `mooring workers start NAME` and `drain NAME` act on one.

    \b
    Example:  mooring workers
    """
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.run(lambda client: client.workers())
    if as_json:
        for record in found:
            show_json(record)
    else:
        screen = console()
        screen.print(_table(found, screen.width))


@workers.command(help="Have a worker Running; a Failed one is restarted.\n\n\b\nExample:  mooring workers start quotes")
@click.argument("name")
@click.option("--node", help="In a cluster: the node that is to have it.")
@as_json
@click.pass_obj
def start(target: Target, name: str, node: str | None, as_json: bool) -> None:
    """Run ``mooring workers start``."""
    record = target.run(lambda client: client.start_worker(name, node=node), waiting="starting")
    show_json(record) if as_json else click.echo(f"{record.name}  {record.status}  pid {record.pid}")


@workers.command(
    help="Take no new connections; restart the process when the last one has closed.\n\n\b\n"
    "Example:  mooring workers drain quotes"
)
@click.argument("name")
@as_json
@click.pass_obj
def drain(target: Target, name: str, as_json: bool) -> None:
    """Run ``mooring workers drain``."""
    record = target.run(lambda client: known_worker(client, name, client.drain_worker(name)))
    show_json(record) if as_json else click.echo(
        f"{record.name}  draining, {plural(record.connections, 'connection')} left"
    )


@click.command()
@click.argument("worker")
@click.argument("function")
@click.argument("params", required=False)
@click.option("--no-wait", is_flag=True, help="Return once it is queued.")
@as_json
@click.pass_obj
def call(target: Target, worker: str, function: str, params: str | None, no_wait: bool, as_json: bool) -> None:
    """FUNCTION is a name of the configuration; its result is printed as JSON.

    PARAMS is a JSON object (keywords) or list (by position).

    \b
    Example:  mooring call quotes add '{"a": 1, "b": 2}'
    """
    try:
        given = msgspec.json.decode(params) if params else {}
    except msgspec.DecodeError as exc:
        raise click.UsageError(f"PARAMS: not JSON: {exc}") from None
    if not isinstance(given, (dict, list)):
        raise click.UsageError("PARAMS must be a JSON object or list")
    result = target.run(lambda client: client.call(worker, function, given, wait=not no_wait), waiting="running")
    if not no_wait:
        show_json({"result": result} if as_json else result)


@click.command()
@click.argument("worker")
@as_json
@click.pass_obj
def kill(target: Target, worker: str, as_json: bool) -> None:
    """Its connections are closed, its process ends.

    \b
    Example:  mooring kill quotes
    """
    killed = target.run(lambda client: known_worker(client, worker, client.kill_worker(worker)), waiting="ending")
    if as_json:
        show_json(killed)
    else:
        click.echo(
            f"killed {worker}: {plural(killed.closed, 'connection')} closed, {plural(killed.discarded, 'pending item')} discarded"
        )


@click.command()
@click.option("--interval", type=click.FloatRange(0.2), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--count", type=click.IntRange(1), help="End after so many looks.")
@as_json
@click.pass_obj
def top(target: Target, interval: float, count: int | None, as_json: bool) -> None:
    """Live, until it is interrupted; it goes on after a restart of the service.

    \b
    Example:  mooring top
    """

    async def look(client: Client) -> tuple[list[WorkerRecord], dict[str, _Totals]]:
        totals: dict[str, _Totals] = {}
        after = 0
        while True:
            page = await client.connections(after=after)
            for record in page.connections:
                totals.setdefault(record.worker, _Totals()).add(record)
            if page.next is None:
                return await client.workers(), totals
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
                except ServiceAway as exc:
                    if not looks:
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
                            "connections": total.open,
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
                    shown = Group(_table(found, screen.width), Text(), rates)
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
