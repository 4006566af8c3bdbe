"""Which service a command talks to, and how what goes wrong is said."""

from __future__ import annotations

import contextlib
import difflib
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from mooring.checks import is_connection_name
from mooring_api.client import ApiError, Client, ServiceAway, default_state_dir

EXIT_ERROR = 1
EXIT_CONFIG = 78
EXIT_INTERRUPTED = 130
MAX_ID_DIGITS = 100  # more than any has; Python reads some thousands

Result = TypeVar("Result")
Command = TypeVar("Command", bound=Callable[..., Any])


class Target:
    """Which service a command talks to."""

    def __init__(self, url: str | None, state_dir: Path | None) -> None:
        self.url = url
        self._state_dir = state_dir

    @property
    def state_dir(self) -> Path:
        """Where the service keeps its state. The default is worked out only where it is needed: it takes a home."""
        try:
            return self._state_dir or default_state_dir()
        except ServiceAway as exc:
            raise Failure(str(exc)) from None

    def client(self, *, loop: bool = True) -> Client:
        """Return a client that is not connected yet; see `Client`.

        Raises:
            Failure: If it is not known where the service is.
        """
        try:
            return Client(self.url, state_dir=self._state_dir, few=True, loop=loop)
        except ServiceAway as exc:
            raise Failure(str(exc)) from None

    def ask(self, work: Callable[[Client], Coroutine[Any, Any, Result]]) -> Result:
        """As `run`, for `work` that awaits nothing but requests, one behind the other: a loop takes longer to import than they do."""

        async def main() -> Result:
            async with self.client(loop=False) as client:
                return await work(client)

        with _told():
            try:
                main().send(None)
            except StopIteration as exc:
                result: Result = exc.value
                return result
            raise AssertionError("it awaits something that needs a loop")

    def run(self, work: Callable[[Client], Coroutine[Any, Any, Result]], *, waiting: str | None = None) -> Result:
        """Run `work` with a client; what goes wrong is one line on stderr and exit status 1.

        Args:
            waiting: What is said, with the seconds, while it takes longer than one.
        """
        import asyncio  # a tenth of what a plain command takes
        import signal

        async def main() -> Result:
            this = asyncio.current_task()
            assert this is not None, "a coroutine runs in a task"
            # asyncio's own handler has no wake-up descriptor: a Ctrl-C just before the loop sleeps would wait for its next event.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, this.cancel)
            async with self.client() as client:
                if waiting is None:
                    return await work(client)
                begun = time.monotonic()
                task = asyncio.create_task(work(client))
                with Progress() as progress:
                    while not (await asyncio.wait({task}, timeout=0.1))[0]:
                        progress.show(f"{waiting} … {time.monotonic() - begun:.0f} s")
                return await task

        with _told():
            try:
                return asyncio.run(main())
            except asyncio.CancelledError:
                sys.exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Say what goes wrong on one line."""
    try:
        yield
    except (ApiError, ServiceAway) as exc:
        raise Failure(explain(exc)) from None
    except BrokenPipeError:
        raise  # whoever read our output has gone: click ends without a word
    except UnicodeError as exc:
        raise Failure(f"not valid Unicode: {exc}") from None
    except (OSError, ValueError) as exc:  # a full disk under our output; a token or URL that no request can carry
        raise Failure(getattr(exc, "strerror", None) or str(exc)) from None
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


class Failure(click.ClickException):
    """Something went wrong: one line on stderr, exit status 1."""

    exit_code = EXIT_ERROR


class Refusal(Failure):
    """A configuration that waiting does not mend: a service manager must not try again (`EX_CONFIG` of sysexits)."""

    exit_code = EXIT_CONFIG


class Progress:
    """One line on stderr that is written again and again, once something takes longer than a second; on a terminal only."""

    AFTER_S = 1.0
    EVERY_S = 0.1

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._next = self._begun + self.AFTER_S
        self._shown = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        self.clear()

    def show(self, text: str) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now >= self._next and sys.stderr.isatty():
            self._next = now + self.EVERY_S
            self._shown = True
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)

    def clear(self) -> None:
        """It has ended: leave no trace."""
        if self._shown:
            self._shown = False
            click.echo("\r\x1b[K", nl=False, err=True)


def explain(exc: ApiError | ServiceAway) -> str:
    """Return an error as a line for people."""
    text = str(exc)
    if isinstance(exc, ApiError):
        if exc.status == 401:
            return "the service does not accept this token; it is in its state directory (--state-dir), or in $MOORING_TOKEN"
        causes = [entry["message"] for entry in exc.errors[1:] if "message" in entry]
        if causes:
            text += f" ({'; '.join(causes)})"
    return text


def show_json(value: Any) -> None:
    """Print one JSON value on one line: what ``--json`` is for."""
    data = value if isinstance(value, bytes) else msgspec.json.encode(value)
    click.echo(data.decode())


def plural(number: int, thing: str) -> str:
    """Return how many there are of `thing`, in words."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the nearest known name, or nothing."""
    found = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


async def known_worker(client: Client, name: str, work: Coroutine[Any, Any, Result]) -> Result:
    """Await `work`; an unknown worker names the nearest known one."""
    try:
        return await work
    except ApiError as exc:
        if exc.type.endswith(":worker-not-found"):
            known = [record.name for record in await client.workers()]
            raise Failure(explain(exc) + nearest(name, known)) from None
        raise


async def check_node(client: Client, node: str) -> None:
    """Nothing was found of a node: it may be none.

    Raises:
        Failure: If the cluster has no such node; it names the nearest one.
        ApiError: If there is no cluster.
    """
    known = [one.name for one in (await client.cluster()).nodes]
    if node not in known:
        raise Failure(f"the cluster has no node {node!r}{nearest(node, known)}")


as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON: one object, or one a line.")
of_node = click.option("--node", help="In a cluster: only those of this node.")


def keyed(hidden: bool = False) -> Callable[[Command], Command]:
    """Give a command the option under which it is done once, however often it is said."""
    told = "Said again under the same key it is not done again."
    return click.option("--idempotency-key", "idempotency_key", metavar="KEY", help=told, hidden=hidden)


def json_object(text: str) -> dict[str, Any]:
    """Return what a JSON object holds; click says the rest of it."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeError) as exc:
        raise click.BadParameter(f"not a JSON object: {exc}") from None


def is_id(text: str) -> bool:
    """Say whether a connection is meant by its id."""
    return text.isascii() and text.isdigit() and len(text) <= MAX_ID_DIGITS


class Which(click.ParamType[int | str]):
    """A connection: its id, or its name."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """Return the id as a number, a name as it is."""
        if is_id(value):
            return int(value)
        if not is_connection_name(value):
            self.fail(f"{value!r} is neither an id nor a name", param, ctx)
        return value
