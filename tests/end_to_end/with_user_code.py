"""A service whose workers may run `user_code`, and short words for what tests ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, RunningService, wait_for

HANDLERS = ("Recorder", "AsyncRecorder", "OnlyMessages", "Sorter", "Stubborn", "Sleeper", "Busy", "Counter", "Overlap", "Marker", "Misbehaves", "AsyncMisbehaves", "Opens", "Broken", "BrokenWithoutMessage", "BrokenOptions", "WrongOption", "Spelled4D", "make_later")  # fmt: skip
FUNCTIONS = ("get_seen", "get_counts", "get_overlap", "add", "add_slowly", "remember", "fail", "pid", "code", "hold", "die", "tell", "mutate", "kill", "kill_then_call", "try_new", "unserialisable", "huge", "append_to", "kill_at_once", "stall_log")  # fmt: skip


def options() -> list[str]:
    found = ["--app-dir", str(ROOT)]
    for name in HANDLERS:
        found += ["--handler", f"{name}=tests.end_to_end.user_code:{name}"]
    for name in FUNCTIONS:
        found += ["--function", f"{name}=tests.end_to_end.user_code:{name}"]
    found += ["--handler", "absent=no_such_module:Thing", "--handler", "typo=tests.end_to_end.user_code:Recoder"]
    found += ["--function", "absent=no_such_module:thing"]
    return found


SERVICE = (options(), {})
"""Of `shared`: for tests that leave nothing behind in the worker "main"."""


async def call(service: RunningService, function: str, *params: Any, worker: str = "main", status: int = 200) -> Any:
    answer = await service.call(
        "POST", f"/v1/workers/{worker}/calls", status, json={"function": function, "params": list(params)}
    )
    return answer["result"] if status == 200 else answer


async def call_later(service: RunningService, function: str, *params: Any, worker: str = "main") -> None:
    body = {"function": function, "params": list(params)}
    headers = {"Prefer": "respond-async"}
    await service.call("POST", f"/v1/workers/{worker}/calls", 202, json=body, headers=headers)


async def open_with(service: RunningService, url: str, handler: str, params: Any = None, **more: Any) -> dict[str, Any]:
    return await service.open(url, handler={"name": handler, "params": params or {}}, **more)


async def seen_by(service: RunningService, worker: str = "main") -> list[Any]:
    return await call(service, "get_seen", worker=worker)


async def has_seen(service: RunningService, worker: str, values: list[Any]) -> bool:
    return await seen_by(service, worker) == values


async def is_running(service: RunningService, worker: str, name: str) -> bool:
    for record in (await service.get("/v1/workers"))["workers"]:
        if record["name"] == worker:
            return record["running"] is not None and record["running"]["name"] == name
    return False


class Held:
    """A worker whose context is busy until it is released."""

    def __init__(self, call: asyncio.Task[Any], path: Path) -> None:
        self.call = call
        self._path = path

    def release(self) -> None:
        self._path.unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def held(service: RunningService, worker: str = "main") -> AsyncIterator[Held]:
    """Keep a worker's context busy with one call; that is released at the end, or before."""
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        path = Path(folder) / "held"
        path.touch()
        hold = Held(asyncio.create_task(call(service, "hold", str(path), worker=worker)), path)
        try:
            await wait_for(lambda: is_running(service, worker, "hold"))
            yield hold
        finally:
            hold.release()
            await asyncio.wait_for(asyncio.gather(hold.call, return_exceptions=True), 60)  # the service may be gone
