"""Plain requests beside a loop: each on a thread of its own. Imported with the first of them: `asyncio` takes its time."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import Any

from mooring_api.client import plain


async def request(*args: Any, **kwargs: Any) -> tuple[int, bytes]:
    """Make one request as `plain.request`. Who is cancelled leaves it to its thread."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()

    def work() -> None:
        result: tuple[int, bytes] | None = None
        failure: Exception | None = None
        try:
            result = plain.request(*args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - whatever it is: who waits must hear of it
            failure = exc
        with contextlib.suppress(RuntimeError):  # the loop of who has given up may have ended
            loop.call_soon_threadsafe(_settle, answer, result, failure)

    # Daemonic: who gives up does not wait for an answer that may never come.
    threading.Thread(target=work, name="mooring-request", daemon=True).start()
    return await answer


def _settle(
    answer: asyncio.Future[tuple[int, bytes]], result: tuple[int, bytes] | None, failure: Exception | None
) -> None:
    if answer.done():
        return
    if failure is not None:
        answer.set_exception(failure)
    else:
        assert result is not None, "it has one or the other"
        answer.set_result(result)
