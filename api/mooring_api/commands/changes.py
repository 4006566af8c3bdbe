"""set, reconnect: what becomes of a connection that stays."""

from __future__ import annotations

from typing import Any

import click

from mooring.changes import CHANGEABLE
from mooring.options import OPTIONS
from mooring_api.commands.connections import known
from mooring_api.commands.open import body_of, create_options_of
from mooring_api.commands.target import Target, Which, as_json, keyed, show_json
from mooring_service.records import ConnectionRecord

_KEYS = {OPTIONS[name].key: name for name in CHANGEABLE if name in OPTIONS}


def _print(record: ConnectionRecord, as_json: bool) -> None:
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record.id}  {record.status}  {record.url}")


@click.command("set")
@click.argument("connection", metavar="ID", type=Which())
@create_options_of(*_KEYS.values())
@click.option(
    "--default",
    "defaults",
    multiple=True,
    type=click.Choice(list(_KEYS)),
    metavar="KEY",
    help="Put its default back (repeatable).",
)
@as_json
@click.pass_obj
def set_command(
    target: Target, /, connection: int | str, defaults: tuple[str, ...], as_json: bool, **given: Any
) -> None:
    """From its next attempt on; each option replaces what there was of it.

    \b
    Example:  mooring set feed -H 'Authorization: Bearer ${secret:feed}'
    """
    changes = body_of(given, None, None)
    if twice := sorted(changes.keys() & set(defaults)):
        raise click.UsageError(f"--default {twice[0]}: it is set, too")
    changes |= dict.fromkeys(defaults)
    if not changes:
        raise click.UsageError("nothing is to be changed")
    _print(target.run(lambda client: known(client, connection, client.change(connection, **changes))), as_json)


@click.command()
@click.argument("connection", metavar="ID", type=Which())
@click.option("--delay", type=float, default=0.0, help="So many seconds later.")
@click.option("--code", type=int, default=1000, help="Of our close frame: 1000, or 3000 to 4999.")
@click.option("--reason", default="", help="At most 123 bytes.")
@click.option("--wait", type=click.IntRange(1), metavar="S", help="Until the new socket is ready, so long at most.")
@keyed()
@as_json
@click.pass_obj
def reconnect(
    target: Target, /, connection: int | str, delay: float, code: int, reason: str, wait: int | None,
    idempotency_key: str | None, as_json: bool,
) -> None:  # fmt: skip
    """The socket that it has is closed; who waits dials now.

    \b
    Example:  mooring reconnect feed --wait 10
    """

    async def work(client: Any) -> ConnectionRecord:
        asked = client.reconnect(
            connection, delay=delay, code=code, reason=reason, wait=wait, idempotency_key=idempotency_key
        )
        found: ConnectionRecord = await known(client, connection, asked)
        return found

    _print(target.run(work, waiting="reconnecting" if wait else None), as_json)
