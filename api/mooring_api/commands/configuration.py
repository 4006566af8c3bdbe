"""The configuration as a command is given it: the options that `serve` and `check` share, and what they make of the file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from mooring_api.commands.target import Failure, Target
from mooring_service.config import Config
from mooring_service.config_file import load

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(function: Command) -> Command:
    """Give a command the options of the configuration; they are handed on to the functions below."""
    for option in reversed(
        (
            click.option(
                "--config",
                "config_path",
                type=click.Path(path_type=Path, dir_okay=False),
                help="Default: $MOORING_CONFIG or ./mooring.toml.",
            ),
            click.option("--listen", metavar="HOST:PORT", help="Or unix:PATH. Default: 127.0.0.1:8480."),
            click.option(
                "--app-dir",
                "app_dirs",
                multiple=True,
                type=click.Path(path_type=Path, exists=True, file_okay=False),
                metavar="DIR",
                help="Where code is imported from; repeatable.",
            ),
            click.option(
                "--handler",
                "handlers",
                multiple=True,
                metavar="NAME=MODULE:CLASS",
                help="What requests may name; repeatable.",
            ),
            click.option(
                "--function",
                "functions",
                multiple=True,
                metavar="NAME=MODULE:FUNC",
                help="What calls may name; repeatable.",
            ),
            click.option("--tls-cert", help="PEM file of the certificate chain."),
            click.option("--tls-key", help="PEM file of its key."),
            click.option("--allow-remote", is_flag=True, help="Listen off loopback without TLS."),
            click.option("--no-auth", is_flag=True, help="Ask for no token."),
            click.option(
                "--state-dir",
                "own_state_dir",
                metavar="DIR",
                type=click.Path(path_type=Path, file_okay=False),
                help="As before the command.",
            ),
        )
    ):
        function = option(function)
    return function


def _pairs(option: str, values: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for value in values:
        name, equals, reference = value.partition("=")
        if not equals:
            raise click.UsageError(f"{option} {value!r}: must be NAME=MODULE:ATTRIBUTE")
        found[name] = reference
    return found


def config_path_of(path: Path | None) -> Path | None:
    """Return which file is read, for what `--config` says; None: no file."""
    if path is None and "MOORING_CONFIG" in os.environ:
        return Path(os.environ["MOORING_CONFIG"])
    if path is None and Path("mooring.toml").is_file():
        return Path("mooring.toml")
    return path


def config_of(values: dict[str, Any]) -> Config:
    """Return the configuration.

    Raises:
        ConfigError: If anything in it is wrong.
    """
    path = config_path_of(values["config_path"])
    api = {
        key: value
        for key, value in (
            ("listen", values["listen"]),
            ("tls_cert", values["tls_cert"]),
            ("tls_key", values["tls_key"]),
            ("allow_remote", values["allow_remote"] or None),
            ("no_auth", values["no_auth"] or None),
        )
        if value is not None
    }
    overrides: dict[str, Any] = {"api": api} if api else {}
    for table, option in (("handlers", "--handler"), ("functions", "--function")):
        pairs = _pairs(option, values[table])
        if pairs:
            overrides[table] = pairs
    return load(path, os.environ, overrides)


def state_dir_of(values: dict[str, Any], target: Target) -> Path:
    """Return the state directory, as an absolute path."""
    try:
        found: Path = (values["own_state_dir"] or target.state_dir).resolve()
    except (OSError, RuntimeError) as exc:  # RuntimeError: links in a circle
        raise Failure(f"the state directory cannot be used: {exc}") from None
    return found


def app_dirs_of(values: dict[str, Any]) -> list[str]:
    """Return where code is imported from."""
    return [str(path.resolve()) for path in values["app_dirs"]]
