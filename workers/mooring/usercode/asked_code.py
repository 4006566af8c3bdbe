"""Code that a connection asks for (``renew``, ``catchUp``): it runs in the context, and the I/O loop awaits what it returns."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from mooring.connection.host import CodeFailed
from mooring.connection.recorded import RecordedConnection
from mooring.parameters import copy_params
from mooring.usercode import failures, handlers
from mooring.usercode.host import CodeHost


def run_code(
    host: CodeHost,
    connection: RecordedConnection,
    callback: str,
    target: str | Callable[..., Any],
    params: dict[str, Any] | list[Any],
    first: tuple[Any, ...],
) -> asyncio.Future[Any]:
    """Have `target` (code, or its ``module:attribute``) run; see `connection/host.Host.run_code`."""
    done: asyncio.Future[Any] = host.loop.create_future()

    async def run() -> None:
        try:
            function = handlers.load(target) if isinstance(target, str) else target
            copied = copy_params(params)[0]
            result = function(*first, **copied) if isinstance(copied, dict) else function(*first, *copied)
            if inspect.isawaitable(result):
                result = await result
            if callback == "catchUp" and result is not None:
                result = list(result)  # here, where it may block
        # The law of callbacks, 5: whatever it raises (SystemExit, KeyboardInterrupt too) is an event.
        except BaseException as exc:  # noqa: BLE001 - user code
            tell_failure(host, connection, callback, exc)
            host.post(_fail, done, handlers.describe(exc))
        else:
            host.post(_end, done, result)

    host.context.post_task(callback, run)
    return done


def tell_failure(host: CodeHost, connection: RecordedConnection, callback: str, exc: BaseException) -> None:
    """Tell of what the code of a connection has raised, by a line of the log and an event."""
    error = failures.of_callback(callback, exc)
    failures.write_line(connection, error)
    host.post(_record, host, connection, error)


def _record(host: CodeHost, connection: RecordedConnection, error: Any) -> None:
    if connection.terminated is not None:
        failures.record(host, None, error)  # nothing follows an `onTerminate`
    elif connection.handler is None:
        failures.record(host, connection, error)
    else:
        # Its events are numbered by the context.
        host.context.post_task("callbackError", lambda: failures.record(host, connection, error))


def _fail(done: asyncio.Future[Any], text: str) -> None:
    if not done.done():
        done.set_exception(CodeFailed(text))


def _end(done: asyncio.Future[Any], result: Any) -> None:
    if not done.done():
        done.set_result(result)
