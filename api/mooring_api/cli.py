"""The command line. `serve` is the service; every other command talks to it over the API."""

from __future__ import annotations

import difflib
from pathlib import Path

import click

from mooring.version import __version__
from mooring_api.commands import connections, operate, service, workers
from mooring_api.commands.target import Target


class Commands(click.Group):
    """Names the nearest command when one is unknown, and keeps the order of use in the help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if self.get_command(ctx, name) is None:
            found = difflib.get_close_matches(name, self.commands, 1, cutoff=0.5)
            hint = f" Did you mean {found[0]!r}?" if found else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 it failed (stderr says why), 2 wrong usage, 130 interrupted.",
)
@click.option("--url", help="The service's address. Default: what the state directory says, or $MOORING_URL.")
@click.option(
    "--state-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Where the service keeps its state, address and token. Default: $MOORING_STATE_DIR or ~/.local/state/mooring.",
)
@click.version_option(__version__, prog_name="mooring")
@click.pass_context
def main(ctx: click.Context, url: str | None, state_dir: Path | None) -> None:
    """Hold WebSocket connections for other programs.

    \b
    Start a service:       mooring serve
    Open a connection:     mooring open ws://127.0.0.1:8481/
    Follow its events:     mooring tail 1
    """
    ctx.obj = Target(url, state_dir)


for command in (
    service.serve_command,
    service.token,
    connections.open_command,
    connections.ls,
    connections.show,
    connections.send,
    connections.tail,
    connections.close,
    workers.workers,
    workers.call,
    workers.kill,
    workers.logs,
    workers.top,
    service.check,
    service.console,
    operate.restart,
    operate.backup,
    operate.restore,
):
    main.add_command(command)
