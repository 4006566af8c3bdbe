"""Which service a command talks to, and how what goes wrong is said."""

from __future__ import annotations

import asyncio
import difflib
import sys
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mooring_api.client import ApiError, Client, ServiceAway, default_state_dir

EXIT_ERROR = 1
EXIT_MISUSE = 2

Result = TypeVar("Result")


class Target:
    """Which service a command talks to."""

    def __init__(self, url: str | None, state_dir: Path | None) -> None:
        self.url = url
        self.state_dir = state_dir or default_state_dir()

    def run(self, work: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
        """Run `work` with a client; what goes wrong is one line on stderr and exit status 1."""

        async def main() -> Result:
            async with Client(self.url, state_dir=self.state_dir) as client:
                return await work(client)

        try:
            return asyncio.run(main())
        except (ApiError, ServiceAway) as exc:
            raise Failure(explain(exc)) from None
        except KeyboardInterrupt:
            sys.exit(130)


class Failure(click.ClickException):
    """Something went wrong: one line on stderr, exit status 1."""

    exit_code = EXIT_ERROR


def explain(exc: ApiError | ServiceAway) -> str:
    """Return an error as a line for people."""
    text = str(exc)
    if isinstance(exc, ApiError):
        causes = [entry["message"] for entry in exc.errors[1:] if "message" in entry]
        if causes:
            text += f" ({'; '.join(causes)})"
    return text


def show_json(value: Any) -> None:
    """Print one JSON value on one line: what ``--json`` is for."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(data.decode())


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, or nothing."""
    found = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one a line.")
