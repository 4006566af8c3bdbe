"""hooks: events posted to a URL; list, make, look, help on."""

from __future__ import annotations

import time
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from mooring_api.client import Client
from mooring_api.commands.secret_file import secret_in
from mooring_api.commands.tables import Column, Styled, plain, show_table
from mooring_api.commands.target import Target, as_json, is_id, json_object, plural, show_json
from mooring_api.commands.words import COLOURS, duration, seconds_of
from mooring_service.hook_options import fingerprint
from mooring_service.hook_records import HOOK_TONES, AttemptRecord, HookRecord

COLUMNS = (
    Column("NAME", flexible=True),
    Column("STATUS"),
    Column("LAG", right=True),
    Column("LAST"),
    Column("HOST", expendable=1, widest=40),
    Column("REASON", expendable=2, widest=40),
)
ATTEMPT_COLUMNS = (
    Column("AT"),
    Column("EVENTS", right=True),
    Column("BYTES", right=True, expendable=1),
    Column("STATUS", right=True),
    Column("MS", right=True),
    Column("ERROR", flexible=True),
)


def _host(url: str) -> str:
    return url.partition("://")[2].partition("/")[0].partition("?")[0]


def _status(record: HookRecord) -> Styled:
    return Styled(record.status, COLOURS[HOOK_TONES.get(record.status, "plain")])


def _last(record: HookRecord, now: float) -> str:
    return f"{duration(now - seconds_of(record.last_success_at))} ago" if record.last_success_at else "never"


def _list(found: list[HookRecord]) -> None:
    now = time.time()
    rows = [
        (one.name, _status(one), str(one.lag), _last(one, now), plain(_host(one.url)), plain(one.reason or ""))
        for one in found
    ]
    show_table(COLUMNS, rows)


def _show(record: HookRecord, as_json: bool) -> None:
    if as_json:
        show_json(record)
        return
    _list([record])
    skipped = f", {record.skipped} skipped" if record.skipped else ""
    click.echo(f"at {record.cursor}, generation {record.generation}: {record.delivered} delivered{skipped}")
    last = record.last_attempt
    if last is not None and last.error:
        click.echo(plain(last.error))
    if record.next_attempt_at is not None:
        click.echo(f"next attempt in {duration(seconds_of(record.next_attempt_at) - time.time())}")
    for held in record.held[:10]:
        click.echo(f"held: {held.id}  {held.kind}  {plural(held.bytes, 'byte')}")
    if len(record.held) > 10:
        click.echo(f"held: {len(record.held) - 10} more")
    if record.clock_skew is not None and abs(record.clock_skew) > 60:
        click.echo(f"the receiver's clock differs by {record.clock_skew:.0f} s: it may refuse every signature")


class _Hooks(click.Group):
    """Its commands stand in two columns: the help fits one screen."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write them."""
        rows = [f"{name:<8}{(self.commands[name].help or '').partition('.')[0][:29]:<31}" for name in self.commands]
        half = (len(rows) + 1) // 2
        with formatter.section("Commands"):
            for left, right in zip_longest(rows[:half], rows[half:], fillvalue=""):
                formatter.write(f"  {left}{right}".rstrip() + "\n")


@click.group("hooks", cls=_Hooks, invoke_without_command=True)
@as_json
@click.pass_context
def hooks(ctx: click.Context, as_json: bool) -> None:
    """Alone it lists; its commands make, watch and help one.

    \b
    Example:  mooring hooks listen --port 9000 --secret-file secret
              mooring hooks set try http://127.0.0.1:9000/ --secret-file secret
    """
    if ctx.invoked_subcommand is not None:
        return
    found = ctx.obj.ask(lambda client: client.hooks())
    if as_json:
        for record in found:
            show_json(record)
    else:
        _list(found)


@hooks.command("set", help="Have events posted to URL.\n\nA hook that is there keeps its place.\n\n\b\n"
               "Example:  mooring hooks set orders https://shop.example/ --kind onMessage")  # fmt: skip
@click.argument("name")
@click.argument("url")
@click.option("--kind", "kinds", multiple=True, help="Only this kind (onMessage, …); repeatable.")
@click.option("--worker", "workers", multiple=True, help="Only events of this worker; repeatable.")
@click.option("--connection", "connections", multiple=True, help="Only of this connection; repeatable.")
@click.option("--format", "form", type=click.Choice(["page", "event", "lines"]), help="Default: page.")
@click.option("--after", help="Where it begins: 'start', 'now' (default), or an event's id.")
@click.option("--header", "headers", multiple=True, metavar="NAME:VALUE", help="Sent with each POST; repeatable.")
@click.option("--max-events", type=int, help="Of one POST.")
@click.option("--linger", type=float, metavar="SECONDS", help="Wait for more events of one POST.")
@click.option("--refused", type=click.Choice(["hold", "skip"]), help="What becomes of an event that it does not want.")
@click.option("--secret-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Holds its secret.")
@click.option("--body", "rest", metavar="JSON", type=json_object, default="{}", help="More keys of the API's body.")
@as_json
@click.pass_obj
def set_hook(
    target: Target, name: str, url: str, kinds: tuple[str, ...], workers: tuple[str, ...], connections: tuple[str, ...],
    form: str | None, after: str | None, headers: tuple[str, ...], max_events: int | None, linger: float | None,
    refused: str | None, secret_file: Path | None, rest: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Run ``mooring hooks set``."""
    options: dict[str, Any] = {
        "kinds": list(kinds) or None, "workers": list(workers) or None, "format": form, "after": after,
        "connections": [_id_or_name(one) for one in connections] or None,
        "headers": dict(_header(text) for text in headers) or None, "maxEvents": max_events, "linger": linger,
        "refused": refused,
    }  # fmt: skip
    secret = secret_in(secret_file) if secret_file is not None else None
    if said := sorted(rest.keys() & {"url", "secret", *(key for key, value in options.items() if value is not None)}):
        raise click.UsageError(f"--body: {said[0]} has a place of its own")

    async def work(client: Client) -> HookRecord:
        known = {record.name: record for record in await client.hooks()}
        given = rest | {key: value for key, value in options.items() if value is not None}
        if name in known:
            given.setdefault("after", known[name].after)
        elif secret is not None:
            given["secret"] = secret
        return await client.set_hook(name, url, **given)

    record = target.run(work)
    _show(record, as_json)
    if as_json:
        return
    if secret is None:
        if isinstance(record.secret, str):
            click.echo(f"secret (shown this once): {record.secret}")
    elif fingerprint(secret) in [one.fingerprint for one in record.secrets]:
        click.echo("it signs with the given secret")
    else:
        click.echo(
            f"it was there, and signs with another secret; mooring hooks rotate {name} --secret-file … changes that"
        )


def _id_or_name(text: str) -> int | str:
    return int(text) if is_id(text) else text


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise click.UsageError(f"--header {name!r}: NAME:VALUE is wanted")
    return name.strip(), value.strip()


def _command(name: str, help_text: str, verb: str) -> None:
    @hooks.command(name, help=f"{help_text}\n\n\b\nExample:  mooring hooks {name} orders")
    @click.argument("name")
    @as_json
    @click.pass_obj
    def command(target: Target, name: str, as_json: bool) -> None:
        _show(target.run(lambda client: getattr(client, verb)(name)), as_json)


for _name, _help, _verb in (
    ("show", "Show it, and what waits.", "hook"),
    ("resume", "Have it go on.", "resume_hook"),
    ("retry", "Try at once.", "retry_hook"),
):
    _command(_name, _help, _verb)


@hooks.command(help="Remove it, and its place.\n\n\b\nExample:  mooring hooks rm orders")
@click.argument("name")
@as_json
@click.pass_obj
def rm(target: Target, name: str, as_json: bool) -> None:
    """Run ``mooring hooks rm``."""
    record = target.run(lambda client: client.remove_hook(name))
    if as_json:
        show_json(record)
    else:
        click.echo(f"removed {record.name}, which was at {record.cursor}")


@hooks.command(help="Pause it; it keeps its place.\n\n\b\nExample:  mooring hooks pause orders --reason moving")
@click.argument("name")
@click.option("--reason", default="", help="Its record and an event say so.")
@as_json
@click.pass_obj
def pause(target: Target, name: str, reason: str, as_json: bool) -> None:
    """Run ``mooring hooks pause``."""
    _show(target.run(lambda client: client.pause_hook(name, reason)), as_json)


@hooks.command(help="Post once without an event.\n\n\b\nExample:  mooring hooks test orders")
@click.argument("name")
@as_json
@click.pass_obj
def test(target: Target, name: str, as_json: bool) -> None:
    """Run ``mooring hooks test``."""
    done = target.run(lambda client: client.test_hook(name), waiting="posting")
    if as_json:
        show_json(done)
    else:
        click.echo(
            f"status {done.status or 'none'} in {done.ms:.0f} ms{f': {plain(done.error)}' if done.error else ''}"
        )
    if done.status is None or not 200 <= done.status < 300:
        raise click.exceptions.Exit(1)


@hooks.command(help="Go on behind another event.\n\n\b\nExample:  mooring hooks replay orders --after start")
@click.argument("name")
@click.option("--after", required=True, help="An event's id, 'start', or 'now'.")
@as_json
@click.pass_obj
def replay(target: Target, name: str, after: str, as_json: bool) -> None:
    """Run ``mooring hooks replay``."""
    _show(target.run(lambda client: client.move_hook(name, after)), as_json)


@hooks.command(
    help="Give up events that wait.\n\nshow lists them.\n\n\b\nExample:  mooring hooks skip orders --through ab12cd34-163"
)
@click.argument("name")
@click.option("--through", required=True, metavar="ID", help="The last one that is given up.")
@as_json
@click.pass_obj
def skip(target: Target, name: str, through: str, as_json: bool) -> None:
    """Run ``mooring hooks skip``."""
    count = target.run(lambda client: client.skip_hook(name, through))
    show_json({"skipped": count}) if as_json else click.echo(f"skipped {plural(count, 'event')}")


@hooks.command(
    help="Sign with another secret.\n\nThe old one signs on for a day.\n\n\b\nExample:  mooring hooks rotate orders"
)
@click.argument("name")
@click.option("--expires-in", type=float, default=86_400.0, metavar="SECONDS", help="For so long the old one signs on.")
@click.option("--secret-file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Holds the new one.")
@as_json
@click.pass_obj
def rotate(target: Target, name: str, expires_in: float, secret_file: Path | None, as_json: bool) -> None:
    """Run ``mooring hooks rotate``."""
    given = secret_in(secret_file) if secret_file is not None else None
    made = target.run(lambda client: client.add_hook_secret(name, given, expires_in=expires_in))
    if as_json:
        show_json({"secret": made})
    else:
        click.echo(f"secret (shown this once): {made}" if given is None else "it signs with the given secret")


@hooks.command("log", help="Print the last attempts.\n\n\b\nExample:  mooring hooks log orders")
@click.argument("name")
@click.option("--limit", "-n", type=click.IntRange(1, 100), default=20)
@as_json
@click.pass_obj
def log_(target: Target, name: str, limit: int, as_json: bool) -> None:
    """Run ``mooring hooks log``."""
    found = target.run(lambda client: client.hook_attempts(name, limit))
    if as_json:
        for one in found:
            show_json(one)
        return
    show_table(ATTEMPT_COLUMNS, [_attempt(one) for one in found])


def _attempt(one: AttemptRecord) -> tuple[str, ...]:
    return (
        one.at[11:23], str(one.events), str(one.bytes), str(one.status or "none"), f"{one.ms:.0f}", plain(one.error),
    )  # fmt: skip


@hooks.command(help="Receive, verify, print.\n\n\b\n"
               "Example:  mooring hooks listen --port 9000 --secret-file secret")  # fmt: skip
@click.option("--port", type=click.IntRange(0, 65535), default=9000)
@click.option("--secret-file", type=click.Path(path_type=Path, dir_okay=False), required=True,
              help="Made, if there is none: give it to `hooks set` too.")  # fmt: skip
@click.option("--limit", "-n", type=click.IntRange(1), help="End after so many events.")
def listen(port: int, secret_file: Path, limit: int | None) -> None:
    """Run ``mooring hooks listen``."""
    from mooring_api.commands import hook_receiver  # aiohttp's server is not for those who only ask

    hook_receiver.run(port, secret_file, limit)
