"""What must be so for a service to start, told without starting one: for `mooring check`, and for a restart before it is done.

Each look calls what a start itself calls, so that neither says yes where the other says no. Nothing is made, nothing is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from mooring_api.rest.access import derived_token, read_token
from mooring_api.server import state_file
from mooring_api.server.listen import Listen, bind, check_path, parse_listen, tls_of
from mooring_api.server.state_file import owner_of, user_name
from mooring_service import service
from mooring_service.config import Config
from mooring_service.config_file import check_secret
from mooring_service.declarations import check_declared
from mooring_service.hooks.configured import read_secrets
from mooring_service.lock import holder_of


class Look(NamedTuple):
    """What is looked at; `ask` raises ConfigError, TokenFileError, MooringError or OSError if a start would fail of it."""

    what: str
    ask: Callable[[], object]


def looks(config: Config, state_dir: Path, *, has_socket: bool = False) -> tuple[Look, ...]:
    """Return what is to be looked at.

    Args:
        state_dir: It need not be there yet.
        has_socket: Whether the service will be handed a listening socket, whatever the setting says.
    """
    # Root asks for the service of whoever has the directory.
    owner = (owner_of(state_dir) or 0) if os.getuid() == 0 else os.getuid()
    whose = (
        "" if owner == os.getuid() else f" (of the user {user_name(owner)}: the service must be started as that one)"
    )
    return (
        *(Look(f"secret {name}", partial(check_secret, config, name)) for name in config.secrets),
        *(Look(f"connection {name}", partial(check_declared, config, name)) for name in config.connections),
        *(Look(f"hook {name}", partial(_look_at_hook, hook.secret_file)) for name, hook in config.hooks.items()),
        *(Look("cluster.secret_file", partial(derived_token, one)) for one in (config.cluster.secret_file,) if one),
        Look(f"state directory {state_dir}{whose}", partial(_look_at_state_dir, config, state_dir, owner)),
        Look(f"listen {config.api.listen}", partial(_look_at_address, config, state_dir, has_socket)),
    )


def _look_at_hook(secret_file: str) -> None:
    read_secrets(secret_file)


def _look_at_state_dir(config: Config, state_dir: Path, owner: int) -> None:
    state_file.check_state_dir(state_dir, owner)
    service.check_state_dir(state_dir, config.journal.store)
    if not config.api.no_auth and os.path.lexists(state_dir / "token"):
        read_token(state_dir, owner)


def _look_at_address(config: Config, state_dir: Path, has_socket: bool) -> None:
    listen = parse_listen(config.api.listen)
    tls_of(listen, config.api)
    if has_socket or _is_had_by_service_of(state_dir, listen):
        return
    if listen.path is not None:
        check_path(listen.path)
    else:
        bind(listen).close()


def _is_had_by_service_of(state_dir: Path, listen: Listen) -> bool:
    """Say whether the running service of this very state directory listens there: the next one will have it from that."""
    if holder_of(state_dir) is None:
        return False
    try:
        address = (state_dir / "address").read_text().strip()
    except OSError:
        return False
    if listen.path is not None:
        return address == f"unix:{listen.path}"
    return address.startswith("http") and address.endswith(f":{listen.port}")
