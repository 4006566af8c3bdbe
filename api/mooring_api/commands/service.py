"""serve, token, check, console."""

from __future__ import annotations

import errno
import logging
import os
import shlex
import socket
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from mooring import private_files
from mooring.errors import HandlerError, InvalidRequest, MooringError
from mooring.usercode import handlers as user_code
from mooring_api.commands.target import Failure, Target, as_json, show_json
from mooring_api.rest.access import TokenFileError, load_token, read_token, token_hash
from mooring_api.server import logs, systemd
from mooring_api.server.composition import ServeOptions
from mooring_api.server.listen import parse_listen, tls_of
from mooring_api.server.restart import DRY_RUN
from mooring_api.server.serve import serve
from mooring_api.server.state_file import owner_of, prepare_state_dir
from mooring_api.server.streams import finish_standard_streams, queue_standard_streams
from mooring_service.config import Config, ConfigError, ignored_variables, load
from mooring_service.lock import StateDirectoryBusy, holder_of

log = logging.getLogger("mooring.config")


def _config_options(function: Any) -> Any:
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
@click.option("--demo", is_flag=True, help="Also run an echo server on port 8481.")
@click.option("--handover", is_flag=True, help="When it stops, the workers wait for the next.")
@click.option(DRY_RUN, is_flag=True, hidden=True, help="Say whether it could start: asked before a restart.")
@click.pass_obj
def serve_command(target: Target, /, demo: bool, handover: bool, dry_run: bool, **values: Any) -> None:
    """It ends on SIGTERM, in order; `mooring restart` replaces it, SIGHUP has it read the configuration again.

    \b
    Example:  mooring serve --app-dir . --handler quotes=feeds:Quotes
    """
    state_dir = values["own_state_dir"] or target.state_dir
    try:
        if dry_run:
            config = _load(values)
            tls_of(parse_listen(config.api.listen), config.api)
            return
        _, errors = queue_standard_streams()
        config = _load(values)
        logs.set_up(config.log, errors)
        ignored = ignored_variables(os.environ)
        if ignored:
            log.info("these variables of the environment are no settings, and are ignored: %s", ", ".join(ignored))
        options = ServeOptions(state_dir=state_dir.resolve(), app_dirs=_app_dirs(values), demo=demo, handover=handover)
        outcome = uvloop.run(serve(config, options, lambda: _load(values), lines_dropped=lambda: errors.dropped))
    except (ConfigError, TokenFileError, StateDirectoryBusy, MooringError) as exc:
        raise Failure(str(exc)) from None
    except OSError as exc:
        raise Failure(f"cannot start: {exc}") from None
    if outcome.socket is not None:
        systemd.hand_over(outcome.socket)  # only now: the event loop's own descriptors are closed
        if outcome.pending is not None:
            os.kill(os.getpid(), outcome.pending)  # blocked until the next program has its handlers
        finish_standard_streams()
        # The same process, a new program: the service manager keeps its main pid, the kernel frees the lock.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    sys.exit(outcome.code)


@click.command()
@click.option(
    "--state-dir",
    "own_state_dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="As before the command.",
)
@click.option(
    "--hash",
    "as_hash",
    is_flag=True,
    help="Of a token read from stdin, print what [tokens] holds.",
)
@as_json
@click.pass_obj
def token(target: Target, own_state_dir: Path | None, as_hash: bool, as_json: bool) -> None:
    """That of the state directory; it is made if there is none.

    \b
    Example:  curl -H "Authorization: Bearer $(mooring token)" \\
                http://127.0.0.1:8480/v1/connections
    """
    if as_hash:
        hashed = token_hash(sys.stdin.readline().strip())
        show_json({"hash": hashed}) if as_json else click.echo(hashed)
        return
    state_dir = own_state_dir or target.state_dir
    owner = owner_of(state_dir)
    try:
        if os.getuid() == 0 and owner:  # root may look; what it made there, the owner could not open
            found = read_token(state_dir, owner)
        else:
            prepare_state_dir(state_dir)
            found = load_token(state_dir)
    except (ConfigError, TokenFileError) as exc:
        raise Failure(str(exc)) from None
    show_json({"token": found}) if as_json else click.echo(found)


@click.command()
@_config_options
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
        config = _load(values)
    except ConfigError as exc:
        report("configuration", str(exc))
        sys.exit(1)
    report("configuration", None)
    app_dirs = _app_dirs(values)
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
    state_dir = values["own_state_dir"] or target.state_dir
    try:
        prepare_state_dir(state_dir)
        probe = state_dir / ".check"
        private_files.make(probe)
        probe.unlink()
        if (state_dir / "token").exists():
            load_token(state_dir)
    except (ConfigError, TokenFileError, OSError) as exc:
        report(f"state directory {state_dir}", str(exc))
    else:
        report(f"state directory {state_dir}", None)
    report(f"listen {config.api.listen}", _listen_problem(config, state_dir))
    sys.exit(1 if failed else 0)


def _nearby(error: HandlerError, configs: list[Path | None]) -> str:
    """Return a hint when a module that cannot be found lies beside the configuration."""
    if not isinstance(error.__cause__, ModuleNotFoundError):
        return ""
    for folder in dict.fromkeys(path.resolve().parent for path in configs if path is not None):
        if (folder / f"{error.__cause__.name}.py").is_file() or (folder / f"{error.__cause__.name}").is_dir():
            return f"; it is in {folder}: add --app-dir {folder}"
    return ""


def _listen_problem(config: Config, state_dir: Path) -> str | None:
    try:
        listen = parse_listen(config.api.listen)
        tls_of(listen, config.api)
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
            if exc.errno == errno.EADDRINUSE and holder_of(state_dir) is not None and _is_at(state_dir, listen.port):
                return None  # the service of this very state directory has it: the next one will, too
            return f"{exc.strerror}; choose another with --listen, or end what has it"
    return None


def _is_at(state_dir: Path, port: int) -> bool:
    try:
        return (state_dir / "address").read_text().strip().endswith(f":{port}")
    except OSError:
        return False


@click.command()
@as_json
@click.pass_obj
def console(target: Target, as_json: bool) -> None:
    """With the token in its fragment, which is never sent to a server.

    \b
    Example:  mooring console
    """
    client = target.client()
    if client.url.startswith("unix:"):
        path = shlex.quote(client.url.removeprefix("unix:"))
        raise Failure(
            f"no browser can open {client.url}: have the service --listen HOST:PORT, or lead a port there "
            f"(socat TCP-LISTEN:8480,bind=127.0.0.1,fork UNIX-CONNECT:{path}; from elsewhere: ssh -L 8480:{path} HOST) "
            "and open http://localhost:8480/; it asks for what `mooring token` prints"
        )
    address = f"{client.url}/#token={client.token}" if client.token else f"{client.url}/"
    show_json({"url": address}) if as_json else click.echo(address)
