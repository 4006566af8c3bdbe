"""serve: up to where all that a service is made of is imported. That is `serving`, and takes longer than all the rest of a start."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from mooring.errors import MooringError
from mooring_api.commands.configuration import config_of, config_options, state_dir_of
from mooring_api.commands.target import Failure, Refusal, Target
from mooring_api.server.restart import DRY_RUN
from mooring_api.server.streams import follows_another, queue_standard_streams
from mooring_service.config import ClusterRefused, Config, ConfigError
from mooring_service.lock import StateDirectoryBusy
from mooring_service.processes.execution import ForkerProcess


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
        errors = None if dry_run else queue_standard_streams()[1]
        config = config_of(values)
        begun = None if dry_run or not _wants_forker_now(config) else _begun()
        try:
            from mooring_api.commands import serving  # only now: the forker imports meanwhile

            if errors is None:
                serving.ask(config, state_dir)
                return
            outcome = serving.run(config, values, state_dir, errors, demo=demo, handover=handover, begun=begun)
        finally:
            if begun is not None:
                begun.end()
    except (ConfigError, StateDirectoryBusy, MooringError) as exc:
        raise (Refusal if isinstance(exc, ClusterRefused) else Failure)(str(exc)) from None
    except OSError as exc:
        raise Failure(f"cannot start: {exc}") from None
    if outcome.socket is not None:
        serving.go_on(outcome, outcome.socket)
    sys.exit(outcome.code)


def _wants_forker_now(config: Config) -> bool:
    """Say whether the forker is to import beside us: not on a core that we need ourselves, and not where running workers are gone on with."""
    return config.supervisor.fork_workers and len(os.sched_getaffinity(0)) > 1 and not follows_another()


def _begun() -> ForkerProcess | None:
    try:
        return ForkerProcess()
    except OSError:
        return None  # the service will try, and say it
