"""serve, token, check, console."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from mooring import handlers as user_code
from mooring.errors import HandlerError, MooringError
from mooring_api import logs, systemd
from mooring_api.access import TokenFileError, load_token, token_hash
from mooring_api.commands.target import Failure, Target
from mooring_api.serve import ServeOptions, parse_listen, prepare_state_dir, serve
from mooring_service.config import Config, ConfigError, load
from mooring_service.lock import StateDirectoryBusy


def _config_options(function: Any) -> Any:
    for option in reversed(
        (
            click.option(
                "--config",
                "config_path",
                type=click.Path(path_type=Path, dir_okay=False),
                help="Default: mooring.toml here, if there is one; or $MOORING_CONFIG.",
            ),
            click.option("--listen", metavar="HOST:PORT", help="Or unix:PATH. Default: 127.0.0.1:8480."),
            click.option(
                "--app-dir",
                "app_dirs",
                multiple=True,
                type=click.Path(path_type=Path, exists=True, file_okay=False),
                help="Where handlers and functions are imported from; repeatable.",
            ),
            click.option(
                "--handler",
                "handlers",
                multiple=True,
                metavar="NAME=MODULE:CLASS",
                help="A handler that requests may name; repeatable.",
            ),
            click.option(
                "--function",
                "functions",
                multiple=True,
                metavar="NAME=MODULE:FUNC",
                help="A function that requests may name; repeatable.",
            ),
            click.option("--tls-cert", help="PEM file of the certificate chain."),
            click.option("--tls-key", help="PEM file of its key."),
            click.option("--allow-remote", is_flag=True, help="Listen off loopback without TLS."),
            click.option("--no-auth", is_flag=True, help="Ask for no token."),
            click.option(
                "--state-dir",
                "own_state_dir",
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


def _load(values: dict[str, Any]) -> Config:
    path: Path | None = values["config_path"]
    if path is None and "MOORING_CONFIG" in os.environ:
        path = Path(os.environ["MOORING_CONFIG"])
    if path is None and Path("mooring.toml").is_file():
        path = Path("mooring.toml")
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


def _app_dirs(values: dict[str, Any]) -> list[str]:
    return [str(path.resolve()) for path in values["app_dirs"]]


@click.command("serve")
@_config_options
@click.option("--demo", is_flag=True, help="Also run an echo server at ws://127.0.0.1:8481/.")
@click.option("--handover", is_flag=True, help="When told to stop, leave the workers running for the next service.")
@click.pass_obj
def serve_command(target: Target, /, demo: bool, handover: bool, **values: Any) -> None:
    """Run the service.

    \b
    Example:  mooring serve --app-dir . --handler quotes=feeds:Quotes
    """
    state_dir = values["own_state_dir"] or target.state_dir
    try:
        config = _load(values)
        logs.set_up(config.log)
        options = ServeOptions(state_dir=state_dir.resolve(), app_dirs=_app_dirs(values), demo=demo, handover=handover)
        outcome = uvloop.run(serve(config, options, lambda: _load(values)))
    except (ConfigError, TokenFileError, StateDirectoryBusy, MooringError) as exc:
        raise Failure(str(exc)) from None
    except OSError as exc:
        raise Failure(f"cannot start: {exc}") from None
    if outcome.socket is not None:
        systemd.hand_over(outcome.socket)  # only now: the event loop's own descriptors are closed
        # The same process, a new program: the service manager keeps its main pid, the kernel frees the lock.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    sys.exit(outcome.code)


@click.command()
@click.option(
    "--state-dir", "own_state_dir", type=click.Path(path_type=Path, file_okay=False), help="As before the command."
)
@click.option(
    "--hash",
    "as_hash",
    is_flag=True,
    help="Print what [tokens] of the configuration holds for a token read from stdin.",
)
@click.pass_obj
def token(target: Target, own_state_dir: Path | None, as_hash: bool) -> None:
    """Print the token of the state directory; it is made if there is none.

    \b
    Example:  curl -H "Authorization: Bearer $(mooring token)" http://127.0.0.1:8480/v1/connections
    """
    if as_hash:
        click.echo(token_hash(sys.stdin.readline().strip()))
        return
    state_dir = own_state_dir or target.state_dir
    try:
        prepare_state_dir(state_dir)
        click.echo(load_token(state_dir))
    except (ConfigError, TokenFileError) as exc:
        raise Failure(str(exc)) from None


@click.command()
@_config_options
@click.pass_obj
def check(target: Target, /, **values: Any) -> None:
    """Check configuration, handlers, functions, state directory and port; say what to do.

    \b
    Example:  mooring check --config mooring.toml --app-dir .
    """
    failed = False

    def report(what: str, problem: str | None) -> None:
        nonlocal failed
        failed = failed or problem is not None
        mark = click.style("ok", fg="green") if problem is None else click.style("no", fg="red")
        click.echo(f"{mark}  {what}" + (f": {problem}" if problem else ""))

    try:
        config = _load(values)
    except ConfigError as exc:
        report("configuration", str(exc))
        sys.exit(1)
    report("configuration", None)
    sys.path[:0] = _app_dirs(values)
    for table, names in (("handlers", config.handlers), ("functions", config.functions)):
        for name, reference in names.items():
            try:
                user_code.load(reference)
            except HandlerError as exc:
                report(f"{table}.{name}", str(exc))
            else:
                report(f"{table}.{name} = {reference}", None)
    state_dir = values["own_state_dir"] or target.state_dir
    try:
        prepare_state_dir(state_dir)
        probe = state_dir / ".check"
        probe.write_bytes(b"")
        probe.unlink()
    except (ConfigError, OSError) as exc:
        report(f"state directory {state_dir}", str(exc))
    else:
        report(f"state directory {state_dir}", None)
    report(f"listen {config.api.listen}", _listen_problem(config))
    sys.exit(1 if failed else 0)


def _listen_problem(config: Config) -> str | None:
    try:
        listen = parse_listen(config.api.listen)
    except ConfigError as exc:
        return str(exc)
    if listen.path is not None:
        return None if Path(listen.path).parent.is_dir() else "its folder does not exist"
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((listen.host, listen.port))
        except OSError as exc:
            return f"{exc.strerror}; is a service running already, or choose another with --listen"
    return None


@click.command()
@click.pass_obj
def console(target: Target) -> None:
    """Print the address of the console page, with the token in its fragment (never sent to a server).

    \b
    Example:  mooring console
    """
    from mooring_api.client import Client, ServiceAway  # here: only this command of the file is a client

    try:
        client = Client(target.url, state_dir=target.state_dir)
        click.echo(f"{client.url}/#token={load_token(target.state_dir)}")
    except (ServiceAway, TokenFileError) as exc:
        raise Failure(str(exc)) from None
