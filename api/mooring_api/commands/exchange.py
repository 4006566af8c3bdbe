"""send, tail: what goes to a connection, and what comes; `open` follows and types through here, too."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import click
import msgspec

from mooring import json_text
from mooring.deadline import within
from mooring_api.client import ApiError, Client, Event, Sent, ServiceAway
from mooring_api.commands.connections import known
from mooring_api.commands.cursor_file import CursorFile
from mooring_api.commands.tables import console, plain
from mooring_api.commands.target import (
    Failure,
    Progress,
    Target,
    Which,
    as_json,
    explain,
    keyed,
    known_worker,
    plural,
    show_json,
)
from mooring_api.commands.typed import Prompt, lines
from mooring_api.commands.words import in_words, kind_colour
from mooring_service.records import ReplyRecord, RequestRecord

if TYPE_CHECKING:
    from rich.text import Text

INTERACT_END_S = 10.0


class Events(TypedDict, total=False):
    """Which events are meant, as `Client.events` has it."""

    connection: int | str | None
    worker: str | None
    connections: tuple[int | str, ...]
    workers: tuple[str, ...]
    kinds: tuple[str, ...]
    scope: str | None


@click.command()
@click.argument("connection", metavar="ID", type=Which())
@click.argument("text", required=False)
@click.option("--json", "object_text", metavar="JSON", help="Send this JSON value.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Send a file as a blob."
)
@click.option(
    "--when-down",
    type=click.Choice(["fail", "queue"]),
    help="While a kept connection is down: refuse it, or have it wait.",
)
@click.option("--ttl", type=float, help="Seconds that it may wait then.")
@click.option("--drop-queue", is_flag=True, help="Send nothing: give up what waits.")
@keyed()
@click.option("--output", "-o", type=click.Choice(["text", "json"]), help="How the answer is printed; default: text.")
@click.pass_obj
def send(
    target: Target,
    connection: int | str,
    text: str | None,
    object_text: str | None,
    path: Path | None,
    when_down: str | None,
    ttl: float | None,
    drop_queue: bool,
    idempotency_key: str | None,
    output: str | None,
) -> None:
    """One message; or, with '-', each line of standard input as it comes.

    \b
    Examples:  mooring send 1 'Hello world'
               mooring send 1 --json '{"op": "subscribe"}'
               seq 1000 | mooring send 1 -
    """
    given = [value for value in (text, object_text, path, drop_queue or None) if value is not None]
    if len(given) != 1:
        raise click.UsageError("give one of TEXT, --json, --file, --drop-queue or '-'")
    if drop_queue:
        if any(said is not None for said in (when_down, ttl, idempotency_key)):
            raise click.UsageError(
                "--drop-queue sends nothing: --when-down, --ttl and --idempotency-key are of a message"
            )
        gone = target.run(lambda client: known(client, connection, client.drop_queue(connection)))
        show_json(gone) if output == "json" else click.echo(
            f"dropped {plural(gone.messages, 'message')}, {plural(gone.bytes, 'byte')}"
        )
        return
    if text == "-" and idempotency_key is not None:
        raise click.UsageError("--idempotency-key is that of one message, and '-' sends each line")
    headers = None if idempotency_key is None else {"Idempotency-Key": idempotency_key}

    async def work(client: Client) -> Sent:
        body, kind = (text or "").encode(), "text/plain"
        if path is not None:
            body, kind = path.read_bytes(), "application/octet-stream"
        elif object_text is not None:
            body, kind = object_text.encode(), "application/json"
        elif text == "-":
            return await _send_lines(client, connection, when_down, ttl)
        return await client.send_body(connection, body, kind, when_down=when_down, ttl=ttl, headers=headers)

    done = target.run(
        lambda client: known(client, connection, work(client)), waiting=None if text == "-" else "sending"
    )
    if output == "json":
        show_json(_as_json(done))
    else:
        click.echo(_told(done))


def _as_json(done: Sent) -> dict[str, Any]:
    """Return the answer as the API gives it."""
    found: dict[str, Any] = msgspec.to_builtins(done)
    if not done.queued:
        return {"sent": found["sent"], "bytes": found["bytes"]}
    return found if done.sent else {name: value for name, value in found.items() if name != "sent"}


def _told(done: Sent) -> str:
    if not done.queued:
        return f"sent {plural(done.sent, 'message')}, {plural(done.bytes, 'byte')}"
    sent = f"sent {plural(done.sent, 'message')}, " if done.sent else ""
    until = (done.expires_at or "")[11:19]
    return f"{sent}queued {plural(done.queued, 'message')} (first: number {done.queue_id}, until {until} UTC), {plural(done.bytes, 'byte')}"


async def _send_lines(client: Client, connection: int | str, when_down: str | None, ttl: float | None) -> Sent:
    """Each line of standard input is one text message, sent as it comes."""
    total = Sent()
    typed = sys.stdin.isatty()
    with Progress() as progress:
        async for line in lines():
            try:
                done = await client.send_body(connection, line, "text/plain", when_down=when_down, ttl=ttl)
            except (ApiError, ServiceAway) as exc:
                count = total.sent + total.queued
                if count == 0:
                    raise
                raise Failure(f"{explain(exc)}; {count} messages were sent before") from None
            total = Sent(
                total.sent + done.sent,
                total.bytes + done.bytes,
                total.queued + done.queued,
                total.queue_id or done.queue_id,
                total.expires_at or done.expires_at,
            )
            if not typed:
                progress.show(f"{total.sent + total.queued} messages, {total.bytes} bytes")
    return total


@click.command()
@click.argument("connection", metavar="ID", type=Which())
@click.argument("value", metavar="JSON")
@click.option("--timeout", type=float, default=10.0, help="Seconds that the reply may take; default: 10.")
@click.option("--no-wait", is_flag=True, help="Print its id once it is sent; the reply is an ordinary message.")
@keyed()
@click.option("--output", "-o", type=click.Choice(["text", "json"]), help="How the answer is printed; default: text.")
@click.pass_obj
def request(
    target: Target, connection: int | str, value: str, timeout: float, no_wait: bool, idempotency_key: str | None,
    output: str | None,
) -> None:  # fmt: skip
    """Send a request over a connection that has `requests`, and print its reply.

    \b
    Example:  mooring request 1 '{"method": "eth_blockNumber", "jsonrpc": "2.0"}'
    """

    async def work(client: Client) -> ReplyRecord | RequestRecord:
        ask = client.start_request if no_wait else client.send_request
        try:
            return await ask(connection, value, timeout=timeout, idempotency_key=idempotency_key)
        except ApiError as exc:
            if exc.type.endswith(":peer-error"):
                raise Failure(f"{explain(exc)}: {json_text.encode(exc.extra.get('reply')).decode()}") from None
            raise

    done = target.run(lambda client: known(client, connection, work(client)), waiting="waiting for the reply")
    if output == "json":
        show_json(done)
    else:
        click.echo(json_text.encode(done.id if no_wait else done.reply))


@click.command()
@click.argument("connection", metavar="[ID]", type=Which(), required=False)
@click.option("--worker", "workers", multiple=True, help="Only events of this worker; repeatable.")
@click.option("--connection", "connections", type=Which(), multiple=True, help="Only of this connection; repeatable.")
@click.option("--kind", "kinds", multiple=True, help="Only this kind (onMessage, …); repeatable.")
@click.option("--scope", type=click.Choice(["node"]), help="In a cluster: the node's own events, under its own ids.")
@click.option("--after", help="Resume after this event's id; 'start' for everything kept.")
@click.option("--limit", "-n", type=click.IntRange(1), metavar="N", help="End after so many events.")
@click.option("--cursor", "cursor", metavar="FILE", type=click.Path(path_type=Path, dir_okay=False),
              help="With --json: go on behind FILE's event; keep it up to date.")  # fmt: skip
@click.option("--fsync", is_flag=True, help="With --cursor: lines and FILE reach the disk before the next count.")
@as_json
@click.pass_obj
def tail(
    target: Target,
    connection: int | str | None,
    workers: tuple[str, ...],
    connections: tuple[int | str, ...],
    kinds: tuple[str, ...],
    scope: str | None,
    after: str | None,
    limit: int | None,
    cursor: Path | None,
    fsync: bool,
    as_json: bool,
) -> None:
    """As they come; a restart of the service loses and repeats none.

    One connection is shown from its start, until it ends.

    \b
    Examples:  mooring tail 1
               mooring tail --json --cursor place >> events.ndjson
    """
    if connection is not None and (workers or connections):
        raise click.UsageError(
            "give an ID, or --worker and --connection: of one connection's events only kinds are left out"
        )
    if (cursor is not None and not as_json) or (fsync and cursor is None):
        raise click.UsageError("--cursor goes with --json, and --fsync with --cursor")
    place = None if cursor is None else CursorFile(cursor, synced=fsync)

    worker = workers[0] if len(workers) == 1 else None
    which = Events(
        connection=connection, worker=worker, workers=() if worker is not None else workers, connections=connections, kinds=kinds,
        scope=scope,
    )  # fmt: skip

    async def work(client: Client) -> None:
        following = (
            follow(client, which, after, as_json, limit)
            if place is None
            else _follow_from(client, place, which, after, limit)
        )
        if connection is not None:
            await known(client, connection, following)
        elif worker is not None:
            await known_worker(client, worker, following)
        else:
            await following

    target.run(work)


async def _follow_from(client: Client, place: CursorFile, which: Events, after: str | None, limit: int | None) -> None:
    begin = place.read()
    if begin is None:
        begin = after or ("start" if which.get("connection") is not None else "now")
        if begin == "now":  # it means this moment, also if the first event comes after a restart of ours
            begin = (await client.page(**which, after="now", limit=1)).next
            place.write(begin)
    events = client.raw_events(**which, after=begin)
    await place.print_all(events, limit)


async def _next(typed: AsyncIterator[bytes]) -> bytes | None:
    return await anext(typed, None)


async def interact(client: Client, connection: int | str, as_json: bool) -> None:
    """Send the lines of standard input; print what comes; end with the connection, or with the input."""
    prompt = Prompt()
    if prompt.on:
        click.echo("Enter sends a line, Ctrl-D closes the connection, Ctrl-C leaves it open.", err=True)
        prompt.show()
    typed = lines()
    following = asyncio.create_task(follow(client, {"connection": connection}, None, as_json, prompt=prompt))
    try:
        while True:
            line = asyncio.create_task(_next(typed))
            await asyncio.wait({line, following}, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                line.cancel()
                break
            text = line.result()
            if text is None:
                await client.terminate(connection)
                break
            try:
                await client.send_body(connection, text, "text/plain")
            except ApiError as exc:
                click.echo(f"not sent: {plain(explain(exc))}", err=True)
            prompt.show()
        async with within(INTERACT_END_S):
            await following
    except TimeoutError:
        pass  # the end of the connection is known; only its last events have not come
    finally:
        following.cancel()
        prompt.clear()


async def follow(
    client: Client,
    which: Events,
    after: str | None,
    as_json: bool,
    limit: int | None = None,
    prompt: Prompt | None = None,
) -> None:
    """Print events as they come."""
    from rich.cells import cell_len
    from rich.text import Text

    screen = console()
    count = 0
    async for event, raw in client.raw_events(**which, after=after):
        line = Text(raw.decode()) if as_json else _line(event)
        rows = -(-cell_len(line.plain) // screen.width) or 1
        if prompt is not None:
            prompt.above(rows)
        if as_json:
            click.echo(raw.decode())
        else:
            screen.print(line, soft_wrap=True)
        if prompt is not None:
            prompt.back(rows)
        count += 1
        if count == limit:
            return


def _line(event: Event) -> Text:
    from rich.text import Text

    who = str(event.connection) if event.connection is not None else (event.worker or "")
    return Text.assemble(
        (event.time[11:23], "dim"),
        " ",
        (f"{who:>4}", "bold"),
        " ",
        (event.kind, kind_colour(event.kind)),
        f" {in_words(event.kind, event.event)}".rstrip(),
    )
