"""A service whose workers may run `user_code`, and short words for what tests ask of it."""

from __future__ import annotations

from typing import Any

from tests.conftest import ROOT, RunningService

HANDLERS = ("Recorder", "AsyncRecorder", "OnlyMessages", "Stubborn", "Sleeper", "Busy", "Counter", "Overlap", "Marker", "Misbehaves", "AsyncMisbehaves", "Opens", "Broken", "BrokenWithoutMessage", "BrokenOptions", "WrongOption", "make_later")  # fmt: skip


FUNCTIONS = ("get_seen", "get_counts", "get_overlap", "add", "add_slowly", "remember", "fail", "pid", "sleep", "die", "tell", "mutate", "kill", "kill_then_call", "try_new", "unserialisable", "huge", "append_to", "kill_at_once")  # fmt: skip


def options() -> list[str]:
    found = ["--app-dir", str(ROOT)]
    for name in HANDLERS:
        found += ["--handler", f"{name}=tests.end_to_end.user_code:{name}"]
    for name in FUNCTIONS:
        found += ["--function", f"{name}=tests.end_to_end.user_code:{name}"]
    found += ["--handler", "absent=no_such_module:Thing", "--handler", "typo=tests.end_to_end.user_code:Recoder"]
    found += ["--function", "absent=no_such_module:thing"]
    return found


SERVICE = (options(), {})  # of `shared`: for tests that leave nothing behind in the worker "main"


async def call(service: RunningService, function: str, *params: Any, worker: str = "main", status: int = 200) -> Any:
    answer = await service.call(
        "POST", f"/v1/workers/{worker}/calls", status, json={"function": function, "params": list(params)}
    )
    return answer["result"] if status == 200 else answer


async def open_with(service: RunningService, url: str, handler: str, params: Any = None, **more: Any) -> dict[str, Any]:
    return await service.open(url, handler={"name": handler, "params": params or {}}, **more)


async def seen_by(service: RunningService, worker: str = "main") -> list[Any]:
    return await call(service, "get_seen", worker=worker)


async def _is_running(service: RunningService, name: str) -> bool:
    workers = (await service.get("/v1/workers"))["workers"]
    running = workers[0]["running"] if workers else None
    return running is not None and running["name"] == name


async def _has_seen(service: RunningService, worker: str, values: list[Any]) -> bool:
    return await seen_by(service, worker) == values
