"""ls, show, close: what there is, and its end."""

from __future__ import annotations

import difflib
import time
from typing import Any

import click
import msgspec

from mooring_api.client import ApiError, Client
from mooring_api.commands.tables import Column, Styled, console, plain, screen_width, show_table
from mooring_api.commands.target import (
    Failure,
    Target,
    Which,
    as_json,
    check_node,
    explain,
    known_worker,
    of_node,
    plural,
    show_json,
)
from mooring_api.commands.words import down_in_words, duration, seconds_of
from mooring_api.commands.words import status as status_text
from mooring_service.records import STATUS_TONES, ConnectionRecord, DownRecord

WIDE = 80  # cells; below, the worker's name is cut sooner, so that something of the URL is left


async def every(client: Client, **filters: Any) -> list[ConnectionRecord]:
    """Return all connections that the filters let through."""
    found: list[ConnectionRecord] = []
    after = 0
    while True:
        page = await client.connections(after=after, **filters)
        found += page.connections
        if page.next is None:
            return found
        after = page.next


async def known(client: Client, connection: int | str, work: Any) -> Any:
    """Await `work`; an unknown id or name names the nearest known one."""
    try:
        return await work
    except ApiError as exc:
        if exc.type.endswith(":connection-not-found") and isinstance(connection, str):
            names = [record.name for record in await every(client) if record.name is not None]
            nearest = difflib.get_close_matches(connection, names, 1)
            raise Failure(explain(exc) + (f"; did you mean {nearest[0]}?" if nearest else "")) from None
        if exc.type.endswith(":connection-not-found") and not isinstance(connection, str):
            ids = [record.id for record in await every(client)]
            hint = f"; the nearest is {min(ids, key=lambda other: abs(other - connection))}" if ids else ""
            raise Failure(explain(exc) + hint) from None
        raise


@click.command()
@click.option("--worker", help="Only of this worker.")
@click.option("--status", type=click.Choice(list(STATUS_TONES), case_sensitive=False))
@click.option("--ready/--not-ready", default=None, help="Only those that can be sent to; only the others.")
@click.option("--name", help="Only those that have, or had, this name; Closed ones too.")
@of_node
@click.option("--all", "-a", "everything", is_flag=True, help="Closed ones too.")
@as_json
@click.pass_obj
def ls(
    target: Target, worker: str | None, status: str | None, ready: bool | None, name: str | None, node: str | None,
    everything: bool, as_json: bool,
) -> None:  # fmt: skip
    """Those that are not Closed, by id.

    \b
    Example:  mooring ls --worker quotes
    """

    async def work(client: Client) -> list[ConnectionRecord]:
        found = await every(client, worker=worker, status=status, ready=ready, name=name, node=node)
        if worker is not None and not found:
            await known_worker(client, worker, client.worker(worker))
        if node is not None and not found:
            await check_node(client, node)
        return found

    found = target.ask(work)
    if status is None and name is None and not everything:
        found = [record for record in found if record.status != "Closed"]
    if as_json:
        for record in found:
            show_json(record)
        return
    now, named = time.time(), any(record.name for record in found)
    clustered = any(record.node for record in found)
    columns = (
        Column("ID", right=True),
        *([Column("NAME", widest=20)] if named else []),
        Column("STATUS"),
        *((Column("NODE", widest=12),) if clustered else ()),
        Column("WORKER", widest=20 if screen_width() >= WIDE else 10),
        Column("IN", right=True, expendable=1),
        Column("OUT", right=True, expendable=1),
        Column("URL", flexible=True),
    )
    rows = [
        (
            str(record.id),
            *((record.name or "",) if named else ()),
            _status(record, now),
            *((record.node or "",) if clustered else ()),
            record.worker,
            str(record.stats.messages_in),
            str(record.stats.messages_out),
            plain(record.url),
        )
        for record in found
    ]
    show_table(columns, rows)


@click.command()
@click.argument("connection", metavar="ID", type=Which())
@as_json
@click.pass_obj
def show(target: Target, connection: int | str, as_json: bool) -> None:
    """A Closed one, too, while its record is retained.

    \b
    Example:  mooring show 1
    """
    record = target.ask(lambda client: known(client, connection, client.connection(connection)))
    if as_json:
        show_json(record)
        return
    from rich.table import Table
    from rich.text import Text

    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    stats = record.stats
    for name, value in (
        ("id", record.id),
        ("name", record.name),
        ("url", record.url),
        ("status", record.status),
        *_staying(record, time.time()),
        *_conversing(record),
        ("node", f"{record.node}, which does not answer" if record.stale else record.node or None),
        ("worker", record.worker),
        ("handler", record.handler),
        ("data type", record.data_type),
        ("headers", ", ".join(record.headers)),
        ("protocol", record.protocol),
        ("created", record.created_at),
        ("opened", record.opened_at),
        ("closed", record.closed_at),
        ("ended", _end_in_words(record)),
        ("errors", "\n".join(f"{error.err_code} {error.message}" for error in record.errors)),
        ("in", f"{plural(stats.messages_in, 'message')}, {plural(stats.bytes_in, 'byte')}"),
        ("out", f"{plural(stats.messages_out, 'message')}, {plural(stats.bytes_out, 'byte')}"),
        ("last message", stats.last_message_at),
        ("round trip", None if stats.round_trip_ms is None else f"{stats.round_trip_ms:.1f} ms"),
        ("last event", record.last_event_id),
    ):
        if value not in (None, ""):
            facts.add_row(name, Text("\n".join(plain(line) for line in str(value).split("\n"))))
    console().print(facts)


def _status(record: ConnectionRecord, now: float) -> Styled:
    """Return the status, and of who is down what it does about it."""
    down = record.down or None
    return status_text(record.status, f"{record.status} {down_in_words(down, now)}" if down else None)


def _staying(record: ConnectionRecord, now: float) -> list[tuple[str, Any]]:
    """Return what is told of a connection that stays."""
    if not record.reconnect:
        return []
    facts: list[tuple[str, Any]] = []
    down = record.down or None
    if down:
        facts.append(("down", f"{down_in_words(down, now)}, for {duration(now - seconds_of(down.since))}"))
        facts.append(
            ("last error", "\n".join(f"{error.err_code} {error.message}" for error in down.errors) or _code(down))
        )
    policy = record.reconnect
    until = f", giveUpAfter {policy.give_up_after_s:g}" if policy.give_up_after_s else ""
    facts.append(
        (
            "socket",
            f"{record.socket}, ready since {record.socket_opened_at}" if record.ready else record.socket or "none yet",
        )
    )
    facts.append(("reconnect", f"minDelay {policy.min_delay_s:g}, maxDelay {policy.max_delay_s:g}{until}"))
    if record.reconnects and isinstance(record.stats.down_ms, float):
        returns = plural(record.reconnects, "return")
        facts.append(("was down", f"{duration(record.stats.down_ms / 1000)} in all, {returns}"))
    return facts


def _conversing(record: ConnectionRecord) -> list[tuple[str, Any]]:
    """Return what was asked for about what is said over it, and what waits to be said."""
    facts: list[tuple[str, Any]] = []
    if record.opening:
        facts.append(("opening", f"step {record.opening.step} of {record.opening.steps}"))
    facts += [
        (name, value if isinstance(value, str) else msgspec.json.encode(value).decode())
        for name, value in (("recipe", record.recipe), ("keepAlive", record.keep_alive), ("requests", record.requests))
        if value
    ]
    if record.data_timeout:
        facts.append(("dataTimeout", f"{record.data_timeout:g} s, whenSilent {record.when_silent}"))
    if record.when_down == "queue":
        facts.append(("whenDown", f"queue, queueTtl {record.queue_ttl:g} s"))
    if record.queued and record.queued.messages:
        facts.append(("queued", f"{plural(record.queued.messages, 'message')}, {plural(record.queued.bytes, 'byte')}"))
    return facts


def _code(down: DownRecord) -> str:
    return "" if down.code is None else f"{down.code} {down.reason}".rstrip()


def _end_in_words(record: ConnectionRecord) -> str | None:
    end = record.terminate
    if end is None:
        return None
    how = "cleanly" if end.was_clean else "not cleanly"
    return f"{end.code} {how}" + (f": {plain(end.reason)}" if end.reason else "")


@click.command()
@click.argument("connection", metavar="ID", type=Which())
@click.option("--code", type=int, help="Close code: 1000 or 3000 to 4999.")
@click.option("--reason", help="At most 123 bytes.")
@as_json
@click.pass_obj
def close(target: Target, connection: int | str, code: int | None, reason: str | None, as_json: bool) -> None:
    """With a close frame, and its end printed; what is Closed stays so.

    \b
    Example:  mooring close 1 --code 3001 --reason done
    """
    record = target.run(
        lambda client: known(client, connection, client.terminate(connection, code, reason)), waiting="closing"
    )
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record.id}  {record.status}  {_end_in_words(record) or ''}".rstrip())
