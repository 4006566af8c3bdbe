"""workers, call, kill."""

from __future__ import annotations

import click
import msgspec

from mooring_api.client import Client
from mooring_api.commands.tables import Cell, Column, plain, show_table
from mooring_api.commands.target import Target, as_json, check_node, keyed, known_worker, of_node, plural, show_json
from mooring_api.commands.words import status as status_text
from mooring_service.records import WorkerRecord

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


def _now(record: WorkerRecord) -> str:
    if record.running is not None:
        return f"{record.running.name} {record.running.seconds:.1f}s"
    return "" if record.status == "Running" else plain(record.reason or "")


def rows_of(found: list[WorkerRecord]) -> list[tuple[Cell, ...]]:
    """Return what `columns_of` says of each."""
    clustered = any(record.node for record in found)
    return [
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


def columns_of(found: list[WorkerRecord]) -> tuple[Column, ...]:
    """Return what is shown of workers: where there is a cluster, their nodes, too."""
    return (COLUMNS[0], Column("NODE"), *COLUMNS[1:]) if any(record.node for record in found) else COLUMNS


class _WorkersGroup(click.Group):
    """`mooring workers` alone lists; its sub-commands act on one."""


@click.group("workers", cls=_WorkersGroup, invoke_without_command=True)
@of_node
@as_json
@click.pass_context
def workers(ctx: click.Context, node: str | None, as_json: bool) -> None:
    """Alone it lists; its commands show one, or act on it.

    \b
    Example:  mooring workers
    """
    if ctx.invoked_subcommand is not None:
        if node is not None:
            raise click.UsageError("--node in front of a command is for the list; some take it behind their name")
        return

    async def work(client: Client) -> list[WorkerRecord]:
        found = await client.workers(node=node)
        if node is not None and not found:
            await check_node(client, node)
        return found

    _show(ctx.obj.ask(work), as_json)


def _show(found: list[WorkerRecord], as_json: bool) -> None:
    if as_json:
        for record in found:
            show_json(record)
    else:
        show_table(columns_of(found), rows_of(found))


@workers.command(help="Show one.\n\n\b\nExample:  mooring workers show quotes --json")
@click.argument("name")
@as_json
@click.pass_obj
def show(target: Target, name: str, as_json: bool) -> None:
    """Run ``mooring workers show``."""
    _show([target.ask(lambda client: known_worker(client, name, client.worker(name)))], as_json)


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
@keyed()
@as_json
@click.pass_obj
def drain(target: Target, name: str, idempotency_key: str | None, as_json: bool) -> None:
    """Run ``mooring workers drain``."""
    record = target.run(
        lambda client: known_worker(client, name, client.drain_worker(name, idempotency_key=idempotency_key))
    )
    show_json(record) if as_json else click.echo(
        f"{record.name}  draining, {plural(record.connections, 'connection')} left"
    )


@click.command()
@click.argument("worker")
@click.argument("function")
@click.argument("params", required=False)
@click.option("--no-wait", is_flag=True, help="Return once it is queued.")
@keyed()
@as_json
@click.pass_obj
def call(
    target: Target, worker: str, function: str, params: str | None, no_wait: bool, idempotency_key: str | None,
    as_json: bool,
) -> None:  # fmt: skip
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
    result = target.run(
        lambda client: client.call(worker, function, given, wait=not no_wait, idempotency_key=idempotency_key),
        waiting="running",
    )
    if not no_wait:
        show_json({"result": result} if as_json else result)
    elif as_json:
        show_json({"accepted": True})  # as the API has it


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
