"""open: the create options as options of a command. They are made from `mooring.options`, so that none is forgotten."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin
from urllib.parse import urlsplit

import click
import msgspec

from mooring.option_rows import Option
from mooring.options import OPTIONS
from mooring_api.client import Client
from mooring_api.commands.exchange import follow as follow_events
from mooring_api.commands.exchange import interact
from mooring_api.commands.target import Target, as_json, json_object, keyed, show_json
from mooring_service.records import ConnectionRecord

Command = TypeVar("Command", bound=Callable[..., Any])

COMMON = ("worker", "data_type", "headers", "protocols", "connect_timeout")
"""What `--help` shows, in a few words; `--options` shows all of them."""

_RESOLVE = re.compile(r"(\[[^\]]+\]|[^:]+):([0-9]{1,5}):(.+)")

SINGULAR = {"headers": "header", "protocols": "protocol", "addresses": "address"}
"""What is given once for each value, by what one of them is called."""


def _json_or_true(text: str) -> bool | dict[str, Any]:
    """Return what `--reconnect` says."""
    return text == "true" if text in ("true", "false") else json_object(text)


def _proxy(text: str) -> str | dict[str, Any]:
    """Return what `text` says: a URL or an object of the API is a proxy, anything else is the name of one."""
    if "://" in text and not text.startswith("{"):
        return {"url": text}
    return _name_or_object(text)


def _name_or_object(text: str) -> str | dict[str, Any]:
    """Return what `text` says: an object of the API, or a name."""
    return json_object(text) if text.startswith("{") else text


def _recipe(text: str) -> str | dict[str, Any]:
    """Return what `text` says: an object of the API, the one in a file (``./x`` or ``x.json``), or a name."""
    if not text.startswith("{") and ("/" in text or text.endswith(".json")):
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise click.BadParameter(f"the file cannot be read: {exc}") from None
        return json_object(text)
    return json_object(text) if text.startswith("{") else text


def _help(option: Option, *, short: bool) -> str:
    text, notes = option.doc, []
    if short:
        text = re.split("[;,:]( |$)", text)[0]
    elif option.zero:
        notes.append(f"0: {option.zero}")
    if option.unit:
        notes.append(f"default: {str(option.default).removesuffix('.0')} {option.unit}")
    elif option.default and option.default is not msgspec.NODEFAULT and not short:
        notes.append(f"default: {option.default}")
    if option.name in SINGULAR:
        notes.append("repeatable")
    note = f" ({'; '.join(notes)})" if notes else ""
    return f"{text[0].upper()}{text[1:]}{note}.".replace("`", "")


def _declared(option: Option, *, hidden: bool, short: bool) -> Callable[[Command], Command]:
    """Return a create option as an option of the command; the parameter has its name."""
    flags = ["--" + SINGULAR.get(option.name, option.name).replace("_", "-")]
    more: dict[str, Any] = {}
    match get_origin(option.kind) or option.kind:
        case _ if option.name == "headers":
            flags, more = [*flags, "-H"], {"multiple": True, "metavar": "'NAME: VALUE'"}
        case _ if option.name == "local_address":
            flags, more = [*flags, "--interface"], {"metavar": "ADDR"}
        case _ if option.name == "proxy":
            more = {"type": _proxy, "metavar": "NAME|URL|JSON"}
        case kind if kind is list:
            more = {"multiple": True}
        case kind if kind is Literal:
            more = {"type": click.Choice(get_args(option.kind))}
        case kind if kind is bool:
            flags, more = [f"{flags[0]}/--no-{flags[0][2:]}"], {"default": None}
        case kind if kind in (str, int, float):
            more = {"type": kind}
        case _ if option.name == "recipe":
            more = {"type": _recipe, "metavar": "NAME|FILE|JSON"}
        case _ if option.name == "reconnect":
            more = {"type": _json_or_true, "metavar": "JSON"}
        case _ if str in get_args(option.kind):
            more = {"type": _name_or_object, "metavar": "NAME|JSON"}
        case _:
            more = {"type": json_object, "metavar": "JSON"}
    return click.option(*flags, option.name, help=_help(option, short=short), hidden=hidden, **more)


def create_options(function: Command) -> Command:
    """Give a command an option for each create option; the URL is an argument, the handler has two options of its own."""
    for option in reversed(OPTIONS.values()):
        if option.name not in ("url", "handler"):
            function = _declared(option, hidden=option.name not in COMMON, short=option.name in COMMON)(function)
    return function


def create_options_of(*names: str) -> Callable[[Command], Command]:
    """Give a command an option for each of these create options, all of which its help shows."""

    def give(function: Command) -> Command:
        for name in reversed(names):
            function = _declared(OPTIONS[name], hidden=False, short=True)(function)
        return function

    return give


def _show_options(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    formatter = ctx.make_formatter()
    rows = []
    for param in ctx.command.params:
        if isinstance(param, click.Option) and (param.name in OPTIONS or param.hidden):
            shown = copy.copy(param)
            shown.hidden = False
            rows.append(shown.get_help_record(ctx) or ("", ""))
    with formatter.section("Create options"):
        formatter.write_dl(rows)
    click.echo(formatter.getvalue(), nl=False)
    ctx.exit()


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


def resolved(url: str, said: str) -> list[str]:
    """Return the addresses of ``HOST:PORT:ADDR[,ADDR]…``, as curl takes it: it must be of the host that `url` names.

    Raises:
        click.UsageError: If it is not.
    """
    found = _RESOLVE.fullmatch(said)
    if found is None:
        raise click.UsageError(f"--resolve {said!r}: must be HOST:PORT:ADDR")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or {"ws": 80, "wss": 443}.get(parts.scheme)
    except ValueError:
        return []  # the service says what is wrong with the URL
    if (found[1].strip("[]").lower(), int(found[2])) != (host, port):
        raise click.UsageError(f"--resolve {found[1]}:{found[2]}: the URL has {host}:{port}")
    return [address.strip("[]") for address in found[3].split(",")]


def body_of(given: dict[str, Any], handler: str | None, params: str | None) -> dict[str, Any]:
    """Return the create body that the options make; what nobody said is not in it."""
    said = {name: value for name, value in given.items() if value is not None and value != ()}
    if "headers" in said:
        said["headers"] = _headers(said["headers"])
    body = {OPTIONS[name].key: value for name, value in said.items()}
    if handler is not None:
        try:
            body["handler"] = {"name": handler, "params": msgspec.json.decode(params) if params else {}}
        except (msgspec.DecodeError, UnicodeError) as exc:
            raise click.UsageError(f"--params: not JSON: {exc}") from None
    return body


def kept_body(body: dict[str, Any], keep: bool, first: str | None) -> dict[str, Any]:
    """Return the create body with what `--keep` and `--first` say added to what `--reconnect` says."""
    asked = body.get("reconnect", keep)
    if first is not None:
        if asked is False:
            raise click.UsageError("--first: needs --keep or --reconnect")
        asked = {**(asked if isinstance(asked, dict) else {}), "first": first}
    elif asked is False and not keep:
        return body
    elif keep and asked is False:
        raise click.UsageError("--keep: --reconnect says false")
    return {**body, "reconnect": asked}


@click.command("open")
@click.argument("url")
@click.option("--handler", help="A handler of the configuration.")
@click.option("--params", help="JSON for the handler's constructor.")
@click.option("--keep", is_flag=True, help="Stay: dial again whenever it is lost.")
@click.option(
    "--first",
    type=click.Choice(("fail", "retry")),
    hidden=True,
    help="With --keep: what follows when the first dial fails (default: fail).",
)
@create_options
@click.option(
    "--put",
    is_flag=True,
    help="Have one of this --name: the one that was asked for the same, else a new one.",
    hidden=True,
)
@click.option("--no-wait", is_flag=True, help="Return at once, status Connecting.", hidden=True)
@keyed(hidden=True)
@click.option(
    "--resolve", "resolve", metavar="HOST:PORT:ADDR", help="As curl: dial ADDR, look nothing up.", hidden=True
)
@click.option(
    "--options",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_options,
    help="Show all create options.",
)
@click.option("--follow", "-f", is_flag=True, help="Follow its events until it ends.")
@click.option("--interactive", "-i", is_flag=True, help="Type lines to send; see what comes.")
@as_json
@click.pass_obj
def open_command(
    target: Target,
    /,
    url: str,
    handler: str | None,
    params: str | None,
    resolve: str | None,
    keep: bool,
    first: str | None,
    put: bool,
    no_wait: bool,
    idempotency_key: str | None,
    follow: bool,
    interactive: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Its id, status and URL are printed.

    \b
    Example:  mooring open ws://127.0.0.1:8481/ --follow
    """
    if resolve is not None:
        given["addresses"] = (*given["addresses"], *resolved(url, resolve))
    body = kept_body(body_of(given, handler, params), keep, first)
    if put and (given["name"] is None or idempotency_key is not None):
        raise click.UsageError("--put: goes with --name, which is its key")

    async def work(client: Client) -> ConnectionRecord:
        if put:
            return await client.put(body.pop("name"), url, wait=not no_wait, **body)
        return await client.open(url, wait=not no_wait, idempotency_key=idempotency_key, **body)

    record = target.run(work, waiting="connecting")
    if as_json:
        show_json(record)
    else:
        click.echo(f"{record.id}  {record.status}  {record.url}")
    if interactive:
        target.run(lambda client: interact(client, record.id, as_json))
    elif follow:
        target.run(lambda client: follow_events(client, {"connection": record.id}, None, as_json))
