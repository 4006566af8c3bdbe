"""A connection is changed in its life: from the next attempt on, all of it or nothing."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from tests.conftest import ROOT, RunningService, StartService, wait_for
from tests.end_to_end.with_user_code import call
from tests.servers import EchoServer

CODE = "tests.end_to_end.change_code"
OPTIONS = ["--app-dir", str(ROOT)]
for _name in ("open_changed", "change"):
    OPTIONS += ["--function", f"{_name}={CODE}:{_name}"]
SERVICE = (tuple(OPTIONS), {})


async def patch(service: RunningService, connection: int | str, status: int = 200, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = await service.call("PATCH", f"/v1/connections/{connection}", status, json=changes)
    return found


async def redial(service: RunningService, connection: int) -> None:
    await service.call("POST", f"/v1/connections/{connection}/reconnect", 200, headers={"Prefer": "wait=60"})


async def test_a_change_holds_from_the_next_attempt_on(shared: RunningService, echo: EchoServer) -> None:
    opened = await shared.open(
        echo.url, name="changed", headers={"A": "1", "B": "2"}, reconnect={"minDelay": 0.05, "maxDelay": 5}, queueTtl=5
    )
    kept = opened["id"]
    record = await patch(
        shared, "changed", url=f"{echo.url}new?x=1", headers={"C": "3"}, reconnect={"minDelay": 0.1}, queueTtl=None
    )
    assert (record["url"], record["headers"], record["queueTtl"]) == (f"{echo.url}new?x=1", {"C": "***"}, 60.0)
    # A key that is given replaces that key whole.
    assert (record["reconnect"]["minDelay"], record["reconnect"]["maxDelay"]) == (0.1, 60.0)
    assert record["status"] == "Connected" and record["socket"] == 1, "the socket that it has stays"
    await redial(shared, kept)
    assert echo.peers[1].path_qs == "/new?x=1"
    assert (echo.peers[1].headers.get("A"), echo.peers[1].headers.get("C")) == (None, "3")
    # PUT compares with what it is now.
    wanted = {"url": f"{echo.url}new?x=1", "headers": {"C": "3"}, "reconnect": {"minDelay": 0.1}}
    assert (await shared.call("PUT", "/v1/connections/changed", 200, json=wanted))["id"] == kept
    record = await patch(shared, kept, headers=None)
    assert record["headers"] == {}
    await shared.call("DELETE", f"/v1/connections/{kept}")
    assert (await patch(shared, kept, 410))["type"].endswith(":connection-closed")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"worker": "other"}, "/worker"),
        ({"name": "other"}, "/name"),
        ({"protocols": []}, "/protocols"),
        ({"urls": "ws://a"}, "/urls"),
        ({"url": None}, "/url"),
        ({"url": "http://a"}, "/url"),
        ({"reconnect": False}, "/reconnect"),
        ({"reconnect": None}, "/reconnect"),
        ({"reconnect": {"minDelay": 0}}, "/reconnect/minDelay"),
        ({"reconnect": {"persist": True}}, "/headers/A"),  # a literal, which would be on disk
        ({"reconnect": {"mindelay": 1}}, "/reconnect/mindelay"),
        ({"headers": {"Host": "a"}}, "/headers/Host"),
        ({"headers": {"A": "${secret:nobody}"}}, "/headers/A"),
        ({"queueTtl": 0}, "/queueTtl"),
        ({"whenDown": "later"}, "/whenDown"),
    ],
)
async def test_a_change_that_is_not_valid_is_told_where_and_changes_nothing(
    shared: RunningService, echo: EchoServer, changes: dict[str, Any], pointer: str
) -> None:
    kept = (await shared.open(echo.url, headers={"A": "1"}, reconnect={"minDelay": 0.5}))["id"]
    before = await shared.record(kept)
    problem = await patch(shared, kept, 422, **{"queueTtl": 7, **changes} if "queueTtl" not in changes else changes)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    after = await shared.record(kept)
    assert {key: before[key] for key in ("url", "headers", "reconnect", "queueTtl")} == {
        key: after[key] for key in ("url", "headers", "reconnect", "queueTtl")
    }
    await shared.call("DELETE", f"/v1/connections/{kept}")


async def test_what_is_not_kept_has_no_next_attempt(shared: RunningService, echo: EchoServer) -> None:
    plain = (await shared.open(echo.url))["id"]
    assert (await patch(shared, plain, 409, url=f"{echo.url}x"))["type"].endswith(":not-kept")
    assert (await patch(shared, 10**9, 404, url=f"{echo.url}x"))["type"].endswith(":connection-not-found")


async def test_code_changes_what_it_has_opened_and_what_a_request_has(shared: RunningService, echo: EchoServer) -> None:
    made = await call(shared, "open_changed", echo.url)
    assert echo.peers[0].headers["A"] == "of the handler"
    assert await call(shared, "change", made, {"headers": {"B": "new"}}) == ""
    await redial(shared, made)
    assert (echo.peers[1].headers["A"], echo.peers[1].headers["B"]) == ("of the handler", "new")
    # By REST, too: what code has made is changed where it is.
    assert (await patch(shared, made, url=f"{echo.url}rest"))["url"] == f"{echo.url}rest"
    await redial(shared, made)
    assert echo.peers[2].path_qs == "/rest" and echo.peers[2].headers["B"] == "new"
    assert await call(shared, "change", made, {"headers": None, "reconnect": {"min_delay": 0.2}}) == ""
    assert (await shared.record(made))["reconnect"]["minDelay"] == 0.2
    for options, words in (
        ({"worker": "x"}, "InvalidRequest: /worker: cannot be changed"),
        ({"url": 1}, "InvalidRequest: /url: Expected"),
        ({"reconnect": False}, "InvalidRequest: /reconnect: a kept connection stays one"),
        ({"headers": {"A": "${secret:x}"}}, "InvalidRequest: /headers/A: [secrets] has no 'x'"),
    ):
        assert words in await call(shared, "change", made, options)
    await shared.call("DELETE", f"/v1/connections/{made}")
    assert "ConnectionClosed" in await call(shared, "change", made, {"url": echo.url})


async def test_a_change_outlives_service_and_worker(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service("--app-dir", str(ROOT), env={"MOORING_SUPERVISOR_RESTART_BUDGET": "1"})
    kept = (await service.open(echo.url, name="it", reconnect={"minDelay": 0.05}))["id"]
    await patch(service, kept, url=f"{echo.url}one")
    await service.restart_after_kill()
    await wait_for(service.is_ready)
    wanted = {"url": f"{echo.url}one", "reconnect": {"minDelay": 0.05}}
    assert (await service.call("PUT", "/v1/connections/it", 200, json=wanted))["id"] == kept
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    await wait_for(lambda: len(echo.peers) == 2)
    assert echo.peers[1].path_qs == "/one"

    async def ready() -> bool:
        return bool((await service.record(kept))["ready"])

    await wait_for(ready)
    os.kill(service.worker_pids()[0], signal.SIGKILL)

    async def blocked() -> bool:
        down = (await service.record(kept))["down"]
        return down is not None and (await service.get("/v1/workers/main"))["status"] == "Failed"

    # While no process holds it, it is changed all the same.
    await wait_for(blocked)
    assert (await patch(service, kept, url=f"{echo.url}two"))["url"] == f"{echo.url}two"
    await service.call("PUT", "/v1/workers/main", None)
    await wait_for(lambda: len(echo.peers) == 3)
    assert echo.peers[2].path_qs == "/two"
