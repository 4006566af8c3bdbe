"""check: would the service start with this, and its workers find their code?"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from mooring.connection.fragment import parse_fragment
from mooring.errors import HandlerError, Invalid, InvalidRequest, MooringError
from mooring.usercode import handlers as user_code
from mooring_api.commands.configuration import app_dirs_of, config_of, config_options, state_dir_of
from mooring_api.commands.target import Target, as_json, show_json
from mooring_api.rest.access import TokenFileError
from mooring_api.server.preflight import looks
from mooring_service.config import ConfigError
from mooring_service.config_file import ignored_variables


@click.command()
@config_options
@as_json
@click.pass_obj
def check(target: Target, /, as_json: bool, **values: Any) -> None:
    """Handlers, functions, state directory and port are looked at, too; what is wrong says what to do.

    \b
    Example:  mooring check --config mooring.toml --app-dir .
    """
    failed = False

    def report(what: str, problem: str | None) -> None:
        nonlocal failed
        failed = failed or problem is not None
        if as_json:
            show_json({"check": what, "ok": problem is None, "problem": problem})
            return
        mark = click.style("ok", fg="green") if problem is None else click.style("no", fg="red")
        click.echo(f"{mark}  {what}" + (f": {problem}" if problem else ""))

    try:
        config = config_of(values)
    except ConfigError as exc:
        report("configuration", str(exc))
        sys.exit(1)
    report("configuration", None)
    if ignored := ignored_variables(os.environ):
        report(f"environment (no settings, and ignored: {', '.join(ignored)})", None)
    app_dirs = app_dirs_of(values)
    if not sys.flags.safe_path:
        del sys.path[0]  # where this program was found: a worker (`python -P`) does not look there either
    sys.path[:0] = app_dirs
    for table, names in (("handlers", config.handlers), ("functions", config.functions)):
        for name, reference in names.items():
            try:
                found = user_code.load(reference)
                if table == "handlers":
                    user_code.check(found)
            except HandlerError as exc:
                report(f"{table}.{name}", f"{exc}{_nearby(exc, [values['config_path'], Path('mooring.toml')])}")
            except InvalidRequest as exc:
                report(f"{table}.{name} = {reference}", "; ".join(error.detail for error in exc.errors))
            else:
                report(f"{table}.{name} = {reference}", None)
    for name, path in config.recipes.items():
        report(f"recipes.{name} = {path}", _wrong_recipe(path))
    for look in looks(config, state_dir_of(values, target)):
        try:
            look.ask()
        except (ConfigError, TokenFileError, MooringError, OSError) as exc:
            report(look.what, str(exc))
        else:
            report(look.what, None)
    sys.exit(1 if failed else 0)


def _wrong_recipe(path: str) -> str | None:
    """Return what is wrong with a file of ``[recipes]``."""
    wrong: list[Invalid] = []
    try:
        parse_fragment(Path(path).read_bytes(), wrong)
    except OSError as exc:
        return f"cannot be read: {exc.strerror}"
    return "; ".join(f"{one.pointer}: {one.detail}" if one.pointer else one.detail for one in wrong) or None


def _nearby(error: HandlerError, configs: list[Path | None]) -> str:
    """Return a hint when a module that cannot be found lies beside the configuration."""
    if not isinstance(error.__cause__, ModuleNotFoundError):
        return ""
    for folder in dict.fromkeys(path.resolve().parent for path in configs if path is not None):
        if (folder / f"{error.__cause__.name}.py").is_file() or (folder / f"{error.__cause__.name}").is_dir():
            return f"; it is in {folder}: add --app-dir {folder}"
    return ""
