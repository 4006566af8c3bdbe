"""recipe try: a recipe against a transcript, without a service and without a socket."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import UNSET

from mooring.connection.asked import Known, compile_asked, expand
from mooring.connection.fragment import Fragment, parse_fragment
from mooring.connection.rehearsal import Rehearsal, Shown
from mooring.connection.shipped import read_preset, shipped_presets
from mooring.errors import Invalid
from mooring.kept_options import RecipeRequest
from mooring.options import ConnectionRequest, check_request
from mooring.transcript import parse_transcript
from mooring_api.commands.target import as_json, show_json

_COLOURS = {">": "cyan", "=": "green", "!": "red", "~": "yellow"}


@click.group()
def recipe() -> None:
    """A recipe is a protocol without code: what is sent, awaited and answered.

    \b
    Example:  mooring recipe list
    """


@recipe.command(
    "list", help="The presets that are shipped, and what each leaves open.\n\n\b\nExample:  mooring recipe list"
)
@as_json
def list_presets(as_json: bool) -> None:
    """Print them."""
    for name in shipped_presets():
        fragment = parse_fragment(read_preset(name) or b"", [])
        if as_json:
            show_json({"name": name, "values": fragment.values})
            continue
        click.echo(name)
        for value, meaning in fragment.values.items():
            click.echo(f"  {value}: {meaning}")


@recipe.command(
    "try",
    help="Print what would be sent; what the transcript expects is compared.\n\nA FILE holds a recipe, a create body, or what a "
    "preset is made of. Exit status 1: something is wrong.\n\n\b\nExample:  mooring recipe try feed.json --transcript said.txt",
)
@click.argument("what", metavar="FILE|PRESET")
@click.option("--transcript", type=click.File(), required=True, help="What the server says, a line each (- for stdin).")
@click.option("--values", default="{}", metavar="JSON", help="For what the preset leaves open.")
@click.option("--renewed", default="{}", metavar="JSON", help="What `renew` would give.")
@as_json
def try_recipe(what: str, transcript: Any, values: str, renewed: str, as_json: bool) -> None:
    """Print what would be sent."""
    wrong: list[Invalid] = []
    request = _request(what, _object(values, "--values"), wrong)
    given = _object(renewed, "--renewed")
    known = Known(functions={name: "" for name in _functions(request)})
    wrong = wrong or check_request(request)
    compiled = compile_asked(request, wrong, known, of_fragment=("reconnectWhen", "catchUp"))
    for one in wrong:
        click.echo(f"{one.pointer}: {one.detail}", err=True)
    if wrong:
        sys.exit(1)
    try:
        lines = parse_transcript(transcript.read())
    except (ValueError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"--transcript: {exc}") from None
    timeout_s = 0.0 if isinstance(request.data_timeout, msgspec.UnsetType) else request.data_timeout
    failed = False
    for shown in Rehearsal(compiled, given, timeout_s).run(lines):
        failed = failed or shown.mark == "!"
        _echo(shown, as_json)
    sys.exit(1 if failed else 0)


def _echo(shown: Shown, as_json: bool) -> None:
    if as_json:
        show_json({"mark": shown.mark, "text": shown.text, "hidden": shown.hidden})
        return
    text = f"{shown.mark} {shown.text}{'   (hidden)' if shown.hidden else ''}"
    click.echo(click.style(text, fg=_COLOURS.get(shown.mark), dim=shown.mark == "<"))


def _object(text: str, option: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as exc:
        raise click.UsageError(f"{option}: not a JSON object: {exc}") from None


def _functions(request: ConnectionRequest) -> list[str]:
    """Return the functions that the recipe names: whether they are there, the configuration knows."""
    asked = request.recipe
    if not isinstance(asked, RecipeRequest):
        return []
    found = [one.function for one in (asked.renew, asked.catch_up) if not isinstance(one, msgspec.UnsetType)]
    return [name for name in found if isinstance(name, str)]


def _request(what: str, values: dict[str, Any], wrong: list[Invalid]) -> ConnectionRequest:
    if what in shipped_presets():
        asked = RecipeRequest(preset=what, values=values)
        return expand(ConnectionRequest(url="ws://server.test/", recipe=asked), Known(), wrong)[0]
    path = Path(what)
    try:
        data = path.read_bytes()
        found = msgspec.json.decode(data, type=dict[str, Any])
    except OSError as exc:
        raise click.UsageError(
            f"{what}: neither a preset ({', '.join(shipped_presets())}) nor a file: {exc.strerror}"
        ) from None
    except (msgspec.MsgspecError, UnicodeError) as exc:
        raise click.UsageError(f"{what}: not a JSON object: {exc}") from None
    if "url" not in found and found.keys() & {field.encode_name for field in msgspec.structs.fields(Fragment)}:
        asked = RecipeRequest(preset="file", values=values)
        known = Known(recipes={"file": str(path.absolute())})
        return expand(ConnectionRequest(url="ws://server.test/", recipe=asked), known, wrong)[0]
    body = found if "url" in found else {"url": "ws://server.test/", "recipe": found}
    try:
        request = msgspec.convert(body, ConnectionRequest)
    except msgspec.ValidationError as exc:
        raise click.UsageError(f"{what}: {exc}") from None
    return expand(request, Known(), wrong)[0] if request.recipe is not UNSET else request
