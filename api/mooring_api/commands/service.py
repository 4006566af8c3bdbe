"""token, console."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from mooring_api.commands.target import Failure, Target, as_json, show_json
from mooring_api.rest.access import TokenFileError, load_token, read_token, token_hash
from mooring_api.server.state_file import owner_of, prepare_state_dir
from mooring_service.config import ConfigError


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
