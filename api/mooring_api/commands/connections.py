"""open, ls, show, send, tail, close."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from mooring.options import DataType
from mooring_api.client import ApiError, Client, Event
from mooring_api.commands.tables import Column, console, plain, table
from mooring_api.commands.target import Failure, Progress, Target, as_json, explain, known_worker, plural, show_json
from mooring_api.commands.typed import Prompt, lines
from mooring_service.records import ConnectionRecord, SentRecord

STATUS_STYLE = {"Connected": "green", "Connecting": "yellow", "Closing": "yellow", "Closed": "dim"}
WIDE = 80  # cells; below, the worker's name is cut sooner, so that something of the URL is left
INTERACT_END_S = 10.0
KIND_STYLE = {"onError": "red", "callbackError": "red", "onTerminate": "yellow", "onOpen": "green", "gap": "red"}


def _headers(values: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in values:
        name, colon, content = value.partition(":")
        if not colon:
            raise click.UsageError(f"--header {name!r}: must be 'Name: value'")
        content = content.strip()
        if name in found:
            earlier = found[name]
            found[name] = [*earlier, content] if isinstance(earlier, list) else [earlier, content]
        else:
            found[name] = content
    return found


@click.command("open")
@click.argument("url")
@click.option("--worker", help="The worker that holds it (created by first use). Default: main.")
@click.option("--handler", help="Public name of a handler of the configuration.")
@click.option("--params", help="JSON for the handler's constructor.")
@click.option("--data-type", type=click.Choice(get_args(DataType)), help="What received messages become.")
@click.option(
    "--header", "-H", "headers", multiple=True, metavar="'NAME: VALUE'", help="A header of the handshake; repeatable."
)
@click.option("--protocol", "protocols", multiple=True, help="A subprotocol to offer; repeatable.")
@click.option("--connect-timeout", type=float, help="Seconds.")
@click.option("--follow", "-f", is_flag=True, help="Follow its events until it ends.")
@click.option("--interactive", "-i", is_flag=True, help="Type lines to send; see what comes.")
@as_json
@click.pass_obj
def open_command(
    target: Target,
    url: str,
    worker: str | None,
    handler: str | None,
    params: str | None,
    data_type: str | None,
    headers: tuple[str, ...],
    protocols: tuple[str, ...],
    connect_timeout: float | None,
    follow: bool,
    interactive: bool,
    as_json: bool,
) -> None:
    """Open a connection and print its id.

    \b
    Example:  mooring open ws://127.0.0.1:8481/ --follow
    """
    options: dict[str, Any] = {}
    for key, value in (
        ("worker", worker),
        ("dataType", data_type),
        ("headers", _headers(headers) or None),
        ("protocols", list(protocols) or None),
        ("connectTimeout", connect_timeout),
    ):
        if value is not None:
            options[key] = value
    if handler is not None:
        try:
            options["handler"] = {"name": handler, "params": msgspec.json.decode(params) if params else {}}
        except msgspec.DecodeError as exc:
            raise click.UsageError(f"--params: not JSON: {exc}") from None

    record = target.run(lambda client: client.open(url, **options), waiting="connecting")
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record.id}  {record.status}  {record.url}")
    if interactive:
        target.run(lambda client: _interact(client, record.id, as_json))
    elif follow:
        target.run(lambda client: _follow(client, record.id, None, (), None, as_json))


async def _next(typed: AsyncIterator[bytes]) -> bytes | None:
    return await anext(typed, None)


async def _interact(client: Client, connection: int, as_json: bool) -> None:
    """Send the lines of standard input; print what comes; end with the connection, or with the input."""
    prompt = Prompt()
    if prompt.on:
        click.echo("Enter sends a line, Ctrl-D closes the connection, Ctrl-C leaves it open.", err=True)
        prompt.show()
    typed = lines()
    following = asyncio.create_task(_follow(client, connection, None, (), None, as_json, prompt=prompt))
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
        async with asyncio.timeout(INTERACT_END_S):
            await following
    except TimeoutError:
        pass  # the end of the connection is known; only its last events have not come
    finally:
        following.cancel()
        prompt.clear()


@click.command()
@click.option("--worker", help="Only of this worker.")
@click.option("--status", type=click.Choice(["Connecting", "Connected", "Closing", "Closed"], case_sensitive=False))
@click.option("--all", "-a", "everything", is_flag=True, help="Closed ones too.")
@as_json
@click.pass_obj
def ls(target: Target, worker: str | None, status: str | None, everything: bool, as_json: bool) -> None:
    """List connections.

    \b
    Example:  mooring ls --worker quotes
    """

    async def work(client: Client) -> list[ConnectionRecord]:
        found = await _all(client, worker=worker, status=status)
        if worker is not None and not found:
            await known_worker(client, worker, client.worker(worker))
        return found

    found = target.run(work)
    if status is None and not everything:
        found = [record for record in found if record.status != "Closed"]
    if as_json:
        for record in found:
            show_json(record)
        return
    screen = console()
    columns = (
        Column("ID", right=True),
        Column("STATUS"),
        Column("WORKER", widest=20 if screen.width >= WIDE else 10),
        Column("IN", right=True, expendable=1),
        Column("OUT", right=True, expendable=1),
        Column("URL", flexible=True),
    )
    rows = [
        (
            str(record.id),
            Text(record.status, style=STATUS_STYLE.get(record.status, "")),
            record.worker,
            str(record.stats.messages_in),
            str(record.stats.messages_out),
            plain(record.url),
        )
        for record in found
    ]
    screen.print(table(columns, rows, screen.width))


@click.command()
@click.argument("connection", metavar="ID", type=int)
@as_json
@click.pass_obj
def show(target: Target, connection: int, as_json: bool) -> None:
    """Show one connection.

    \b
    Example:  mooring show 1
    """
    record = target.run(lambda client: _known(client, connection, client.connection(connection)))
    if as_json:
        show_json(record)
        return
    facts = Table(box=None, pad_edge=False, show_header=False)
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    stats = record.stats
    for name, value in (
        ("id", record.id),
        ("url", record.url),
        ("status", record.status),
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
        ("in", f"{stats.messages_in} messages, {stats.bytes_in} bytes"),
        ("out", f"{stats.messages_out} messages, {stats.bytes_out} bytes"),
        ("last message", stats.last_message_at),
        ("round trip", None if stats.round_trip_ms is None else f"{stats.round_trip_ms:.1f} ms"),
        ("last event", record.last_event_id),
    ):
        if value not in (None, ""):
            facts.add_row(name, Text("\n".join(plain(line) for line in str(value).split("\n"))))
    console().print(facts)


def _end_in_words(record: ConnectionRecord) -> str | None:
    end = record.terminate
    if end is None:
        return None
    how = "cleanly" if end.was_clean else "not cleanly"
    return f"{end.code} {how}" + (f": {plain(end.reason)}" if end.reason else "")


async def _all(client: Client, **filters: Any) -> list[ConnectionRecord]:
    found: list[ConnectionRecord] = []
    after = 0
    while True:
        page = await client.connections(after=after, **filters)
        found += page.connections
        if page.next is None:
            return found
        after = page.next


async def _known(client: Client, connection: int, work: Any) -> Any:
    """Await `work`; an unknown id names the nearest known one."""
    try:
        return await work
    except ApiError as exc:
        if exc.type.endswith(":connection-not-found"):
            ids = [record.id for record in await _all(client)]
            hint = f"; the nearest is {min(ids, key=lambda known: abs(known - connection))}" if ids else ""
            raise Failure(explain(exc) + hint) from None
        raise


@click.command()
@click.argument("connection", metavar="ID", type=int)
@click.argument("text", required=False)
@click.option("--json", "object_text", metavar="JSON", help="Send this JSON value.")
@click.option(
    "--file", "path", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Send a file as a blob."
)
@click.option("--output", "-o", type=click.Choice(["text", "json"]), help="How the answer is printed; default: text.")
@click.pass_obj
def send(
    target: Target, connection: int, text: str | None, object_text: str | None, path: Path | None, output: str | None
) -> None:
    """Send one message, or each line of standard input ('-').

    \b
    Examples:  mooring send 1 'Hello world'
               mooring send 1 --json '{"op": "subscribe"}'
               seq 1000 | mooring send 1 -
    """
    given = [value for value in (text, object_text, path) if value is not None]
    if len(given) != 1:
        raise click.UsageError("give one of TEXT, --json, --file or '-'")

    async def work(client: Client) -> SentRecord:
        if path is not None:
            return await client.send_body(connection, path.read_bytes(), "application/octet-stream")
        if object_text is not None:
            return await client.send_body(connection, object_text.encode(), "application/json")
        if text == "-":
            return await _send_lines(client, connection)
        return await client.send(connection, text or "")

    done = target.run(
        lambda client: _known(client, connection, work(client)), waiting=None if text == "-" else "sending"
    )
    if output == "json":
        show_json(done)
    else:
        click.echo(f"sent {plural(done.sent, 'message')}, {done.bytes} bytes")


async def _send_lines(client: Client, connection: int) -> SentRecord:
    """Each line of standard input is one text message, sent as it comes."""
    count = size = 0
    typed = sys.stdin.isatty()
    with Progress() as progress:
        async for line in lines():
            try:
                sent = await client.send_body(connection, line, "text/plain")
            except ApiError as exc:
                if count == 0:
                    raise
                raise Failure(f"{explain(exc)}; {count} messages were sent before") from None
            count += 1
            size += sent.bytes
            if not typed:
                progress.show(f"{count} messages, {size} bytes")
    return SentRecord(count, size)


@click.command()
@click.argument("connection", metavar="[ID]", type=int, required=False)
@click.option("--worker", help="Only events of this worker.")
@click.option("--kind", "kinds", multiple=True, help="Only this kind (onMessage, …); repeatable.")
@click.option("--after", help="Resume after this event's id; 'start' for everything kept.")
@click.option("--limit", "-n", type=click.IntRange(1), help="End after so many events.")
@as_json
@click.pass_obj
def tail(
    target: Target,
    connection: int | None,
    worker: str | None,
    kinds: tuple[str, ...],
    after: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """Follow events as they come; a restart of the service loses and repeats none.

    One connection is shown from its start, until it ends.

    \b
    Example:  mooring tail 1
    """
    if connection is not None and worker is not None:
        raise click.UsageError("give an ID or --worker, not both: a connection has one worker")

    async def work(client: Client) -> None:
        following = _follow(client, connection, worker, kinds, after, as_json, limit)
        if connection is not None:
            await _known(client, connection, following)
        elif worker is not None:
            await known_worker(client, worker, following)
        else:
            await following

    target.run(work)


async def _follow(
    client: Client,
    connection: int | None,
    worker: str | None,
    kinds: tuple[str, ...],
    after: str | None,
    as_json: bool,
    limit: int | None = None,
    prompt: Prompt | None = None,
) -> None:
    screen = console()
    count = 0
    async for event, raw in client.raw_events(connection=connection, worker=worker, kinds=kinds, after=after):
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
    who = str(event.connection) if event.connection is not None else (event.worker or "")
    return Text.assemble(
        (event.time[11:23], "dim"),
        " ",
        (f"{who:>4}", "bold"),
        " ",
        (event.kind, KIND_STYLE.get(event.kind, "cyan")),
        f" {plain(_text(event))}".rstrip(),
    )


def _text(event: Event) -> str:
    body = event.event
    match event.kind:
        case "onMessage":
            data = body.get("data")
            text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        case "onError":
            text = "; ".join(f"{error['errCode']} {error['message']}" for error in body.get("errors", []))
        case "onTerminate":
            text = f"{body.get('code')} {'clean' if body.get('wasClean') else 'not clean'} {body.get('reason', '')}"
        case "callbackError":
            text = f"{body.get('callback')}: {body.get('exception')}: {body.get('message')}"
        case "workerStarted":
            text = f"pid {body.get('pid')}"
        case "workerExited":
            text = f"pid {body.get('pid')}: {body.get('reason')}"
        case "gap":
            text = f"events are missing: {body.get('lost') if body.get('lost') is not None else 'an unknown number'}"
        case _:
            text = ""
    return text


@click.command()
@click.argument("connection", metavar="ID", type=int)
@click.option("--code", type=int, help="Close code: 1000 or 3000 to 4999.")
@click.option("--reason", help="At most 123 bytes.")
@as_json
@click.pass_obj
def close(target: Target, connection: int, code: int | None, reason: str | None, as_json: bool) -> None:
    """Terminate a connection.

    \b
    Example:  mooring close 1 --code 3001 --reason done
    """
    record = target.run(
        lambda client: _known(client, connection, client.terminate(connection, code, reason)), waiting="closing"
    )
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record.id}  {record.status}  {_end_in_words(record) or ''}".rstrip())
