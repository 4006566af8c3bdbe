"""serve, with all that a service is made of: from its configuration to the end of the process."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from mooring.queued_stream import QueuedStream
from mooring_api.commands.configuration import app_dirs_of, config_of, config_path_of
from mooring_api.commands.target import Failure
from mooring_api.rest.access import TokenFileError
from mooring_api.server import handed_specs, logs, systemd
from mooring_api.server.composition import ServeOptions
from mooring_api.server.preflight import looks
from mooring_api.server.restart import HAS_SOCKET
from mooring_api.server.serve import Outcome, serve
from mooring_api.server.streams import leave_standard_streams, tell_lost
from mooring_service.config import Config
from mooring_service.config_file import ignored_variables
from mooring_service.processes.execution import ForkerProcess

log = logging.getLogger("mooring.config")


def ask(config: Config, state_dir: Path) -> None:
    """Say whether a service could start (`serve --dry-run`).

    Raises:
        ConfigError, MooringError, OSError, Failure: If it could not.
    """
    with _token_told():
        for look in looks(config, state_dir, has_socket=bool(os.environ.get(HAS_SOCKET))):
            look.ask()


def run(
    config: Config,
    values: dict[str, Any],
    state_dir: Path,
    errors: QueuedStream,
    *,
    demo: bool,
    handover: bool,
    begun: ForkerProcess | None,
) -> Outcome:
    """Be the service, to its end.

    Args:
        values: Of the options of the command line, by which the configuration is read again.
        errors: Our standard error, queued.
        begun: The forker's process; whoever has begun it ends it, if the service does not come to that.

    Raises:
        ConfigError, StateDirectoryBusy, MooringError, OSError, Failure: If it cannot start, or ends of that.
    """
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
        begun=begun,
    )
    with _token_told():
        return uvloop.run(serve(config, options, lambda: config_of(values), lines_dropped=lambda: errors.dropped))


def go_on(outcome: Outcome, listening: systemd.Inherited) -> NoReturn:
    """Execute the program again in this process: the service manager keeps its main pid, the kernel frees the lock."""
    systemd.hand_over(listening)  # only now: the event loop's own descriptors are closed
    handed_specs.hand_over(outcome.specs)
    if outcome.pending is not None:
        os.kill(os.getpid(), outcome.pending)  # blocked until the next program has its handlers
    leave_standard_streams()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


@contextlib.contextmanager
def _token_told() -> Iterator[None]:
    try:
        yield
    except TokenFileError as exc:
        raise Failure(str(exc)) from None
