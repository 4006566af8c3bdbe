"""The command line. `serve` is the service; every other command talks to it over the API."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import click

from mooring.version import __version__
from mooring_api.commands.tables import escape_what_cannot_be_shown
from mooring_api.commands.target import EXIT_ERROR, EXIT_INTERRUPTED, Target

COLUMN = 30  # cells of a description where the help has two columns of commands
TWO_COLUMNS = 76
STDERR = 2  # the last one of the standard descriptors


COMMANDS: dict[str, tuple[str, str]] = {
    "serve": ("serve:serve_command", "Run the service"),
    "token": ("service:token", "Print the API's token"),
    "open": ("open:open_command", "Open a connection"),
    "ls": ("connections:ls", "List connections"),
    "show": ("connections:show", "Show one connection"),
    "send": ("exchange:send", "Send text, JSON, file, lines"),
    "request": ("exchange:request", "Ask, and print the reply"),
    "tail": ("exchange:tail", "Follow events"),
    "set": ("changes:set_command", "Change a connection"),
    "reconnect": ("changes:reconnect", "Get it a new socket"),
    "close": ("connections:close", "Terminate a connection"),
    "workers": ("workers:workers", "List, start, drain workers"),
    "call": ("workers:call", "Run a function in a worker"),
    "kill": ("workers:kill", "End a worker"),
    "logs": ("logs:logs", "Print a worker's log"),
    "top": ("top:top", "Watch rates, queues, memory"),
    "hooks": ("hooks:hooks", "Post events to URLs"),
    "recipe": ("recipes:recipe", "Try a recipe, list presets"),
    "check": ("check:check", "Check the configuration"),
    "cluster": ("cluster:cluster", "Set up and check a cluster"),
    "console": ("service:console", "Print the page's address"),
    "restart": ("operate:restart", "Upgrade the running service"),
    "backup": ("operate:backup", "Copy the journal"),
    "restore": ("operate:restore", "Start over from a copy"),
}
"""Name → where it stands in `mooring_api.commands`, and what it does on one line; in the order of use.

The line is the first one of the command's own help, too: its docstring says what else there is to say.
"""


def _open_what_is_closed() -> None:
    """Have all three standard streams: one that we were started without (``>&-``) is as /dev/null.

    So are their descriptors: else the next file that is opened would be somebody's standard output.
    """
    missing = {number: name for number, name in enumerate(("stdin", "stdout", "stderr")) if getattr(sys, name) is None}
    if not missing:
        return
    while (null := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(null, True)
    os.close(null)
    for number, name in missing.items():
        mode = "w" if number else "r"
        setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - to the end of the process


def _forget_output() -> None:
    # What is still buffered would fail again when the interpreter ends.
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class Commands(click.Group):
    """Imports the command that is run, and no other: `ls` need not wait for what the service is made of.

    Names the nearest command when one is unknown.
    """

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command; what our own output meets with is one line on stderr, too."""
        _open_what_is_closed()
        escape_what_cannot_be_shown()
        try:
            try:
                return super().main(*args, **kwargs)
            finally:
                sys.stdout.flush()
        except BrokenPipeError:
            _forget_output()
            sys.exit(EXIT_ERROR)
        except (OSError, UnicodeError) as exc:
            _forget_output()
            click.echo(f"Error: {getattr(exc, 'strerror', None) or exc}", err=True)
            sys.exit(EXIT_ERROR)

    def invoke(self, ctx: click.Context) -> Any:
        """Run it; one that Ctrl-C ends where it does not look for that says so by its status, too."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            sys.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command."""
        if cmd_name not in COMMANDS:
            return None
        place, short_help = COMMANDS[cmd_name]
        module, _, attribute = place.partition(":")
        command: click.Command = getattr(importlib.import_module(f"mooring_api.commands.{module}"), attribute)
        command.short_help = short_help
        command.help = f"{short_help}.\n\n{inspect.cleandoc(command.callback.__doc__ or '')}"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands in two columns where there is room: the help fits one screen of 24 lines."""
        if formatter.width < TWO_COLUMNS:
            super().format_commands(ctx, formatter)
            return
        rows = [f"{name:<10}{short_help:<{COLUMN}}" for name, (_, short_help) in COMMANDS.items()]
        half = (len(rows) + 1) // 2
        formatter.write_heading("Commands")  # no blank line before it: 24 lines are few
        for left, right in zip_longest(rows[:half], rows[half:], fillvalue=""):
            formatter.write(f"  {left}{right}".rstrip() + "\n")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write it right below the commands, for the same reason."""
        if self.epilog:
            with formatter.indentation():
                formatter.write_text(self.epilog)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        name = args[0]
        if name not in COMMANDS:
            found = difflib.get_close_matches(name, COMMANDS, 1, cutoff=0.5)
            hint = f" Did you mean {found[0]!r}?" if found else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)


HELP = """\b
Hold WebSocket connections. Example:  mooring open ws://127.0.0.1:8481/ -f"""  # not a docstring: PYTHONOPTIMIZE=2 takes those away


@click.group(
    cls=Commands,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit status: 0 done, 1 failed (see stderr), 2 wrong usage, 130 interrupted.",
)
@click.option("--url", help="URL,… of the service. Default: $MOORING_URL, or of DIR.")
@click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Default: $MOORING_STATE_DIR or ~/.local/state/mooring.",
)
@click.version_option(__version__, prog_name="mooring")
@click.pass_context
def main(ctx: click.Context, url: str | None, state_dir: Path | None) -> None:
    """Find the service."""
    ctx.obj = Target(url, state_dir)
