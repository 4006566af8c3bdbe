"""serve, token, console."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import click
import uvloop

from mooring.errors import MooringError
from mooring_api.commands.configuration import app_dirs_of, config_of, config_options, config_path_of, state_dir_of
from mooring_api.commands.target import Failure, Refusal, Target, as_json, show_json
from mooring_api.rest.access import TokenFileError, load_token, read_token, token_hash
from mooring_api.server import handed_specs, logs, systemd
from mooring_api.server.composition import ServeOptions
from mooring_api.server.preflight import looks
from mooring_api.server.restart import DRY_RUN, HAS_SOCKET
from mooring_api.server.serve import serve
from mooring_api.server.state_file import owner_of, prepare_state_dir
from mooring_api.server.streams import leave_standard_streams, queue_standard_streams, tell_lost
from mooring_service.config import ClusterRefused, ConfigError
from mooring_service.config_file import ignored_variables
from mooring_service.lock import StateDirectoryBusy

log = logging.getLogger("mooring.config")


@click.command("serve")
@config_options
@click.option("--demo", is_flag=True, help="Also run an echo server on port 8481.")
@click.option("--handover", is_flag=True, help="When it stops, the workers wait for the next.")
@click.option(DRY_RUN, is_flag=True, hidden=True, help="Say whether it could start: asked before a restart.")
@click.pass_obj
def serve_command(target: Target, /, demo: bool, handover: bool, dry_run: bool, **values: Any) -> None:
    """It ends on SIGTERM, in order; `mooring restart` replaces it, SIGHUP has it read the configuration again.

    \b
    Example:  mooring serve --app-dir . --handler quotes=feeds:Quotes
    """
    state_dir = state_dir_of(values, target)
    try:
        if dry_run:
            for look in looks(config_of(values), state_dir, has_socket=bool(os.environ.get(HAS_SOCKET))):
                look.ask()
            return
        _, errors = queue_standard_streams()
        config = config_of(values)
        logs.set_up(config.log, errors)
        tell_lost(errors)
        ignored = ignored_variables(os.environ)
        if ignored:
            log.info("these variables of the environment are no settings, and are ignored: %s", ", ".join(ignored))
        options = ServeOptions(
            state_dir=state_dir,
            app_dirs=app_dirs_of(values),
            config_file=str((config_path_of(values["config_path"]) or Path("mooring.toml")).resolve()),
            demo=demo,
            handover=handover,
        )
        outcome = uvloop.run(serve(config, options, lambda: config_of(values), lines_dropped=lambda: errors.dropped))
    except (ConfigError, TokenFileError, StateDirectoryBusy, MooringError) as exc:
        raise (Refusal if isinstance(exc, ClusterRefused) else Failure)(str(exc)) from None
    except OSError as exc:
        raise Failure(f"cannot start: {exc}") from None
    if outcome.socket is not None:
        systemd.hand_over(outcome.socket)  # only now: the event loop's own descriptors are closed
        handed_specs.hand_over(outcome.specs)
        if outcome.pending is not None:
            os.kill(os.getpid(), outcome.pending)  # blocked until the next program has its handlers
        leave_standard_streams()
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
