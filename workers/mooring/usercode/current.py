"""The runtime of this process: what `WebSocket.new`, `call_worker` and `kill_worker` act on.

Set once by the worker process (or for the length of a test, by the test kit), read by user code's calls.
"""

from __future__ import annotations

from typing import Any

from mooring.checks import check_worker_name, is_name
from mooring.errors import Invalid, InvalidRequest
from mooring.link.messages import AskCall
from mooring.parameters import copy_params, plain
from mooring.usercode.host import CodeHost

_runtime: CodeHost | None = None


def set_runtime(runtime: CodeHost | None) -> None:
    """Make `runtime` the one of this process, or none."""
    global _runtime
    _runtime = runtime


def runtime() -> CodeHost:
    """Return the runtime of this process.

    Raises:
        RuntimeError: If this is not a worker.
    """
    if _runtime is None:
        raise RuntimeError("not inside a mooring worker (in tests, use mooring.testing)")
    return _runtime


def call_worker(name: str, function: str, *params: Any) -> None:
    """Have `function` run in the context of worker `name` (4D: ``CALL WORKER``). It returns at once; calls queue in order.

    While the journal cannot be written, what was asked for before waits here: once that has reached ``worker.outbox_bytes``,
    a further call waits too, as callbacks do.

    Args:
        name: The worker; it is created by first use. Calling one's own worker queues behind the running item.
        function: A public name of ``[functions]``.
        params: JSON values and bytes; they are copied.

    Raises:
        InvalidRequest: If the name is not a worker's name, or the function's not a public name, or the parameters are more
            than 16 MiB or nested more than 100 deep, or hold an integer beyond 64 bits.
        MooringError: If the worker is killed while the call waits, or has ended, and this is a thread that it has left behind.
        TypeError: If a parameter is not a JSON value or bytes.
        RuntimeError: If the caller is not inside a worker.
    """
    current = runtime()
    wrong = check_worker_name(name, "name")
    if not is_name(function):
        wrong.append(Invalid("function", "must be a public name of [functions]"))
    if wrong:
        raise InvalidRequest(wrong)
    # Copied here, in the caller's thread: a later change of a list must not reach the other worker.
    copied, size = copy_params(list(params))
    current.ask_call(AskCall(plain(name), plain(function), copied), size)


def kill_worker(name: str | None = None) -> None:
    """Kill a worker (4D: ``KILL WORKER``): without a name the calling one, after the running item. Unknown names are ignored.

    Whoever kills its own worker runs to its end, and nothing after it.

    Raises:
        InvalidRequest: If `name` is not a worker's name.
        MooringError: If this worker has ended, and this is a thread that it has left behind.
        RuntimeError: If the caller is not inside a worker.
    """
    current = runtime()
    if name is not None:
        wrong = check_worker_name(name, "name")
        if wrong:
            raise InvalidRequest(wrong)
    current.kill(current.worker if name is None else plain(name))
