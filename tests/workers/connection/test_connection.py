"""One id in a worker without a service: what becomes of a dial that fails in a way that nobody foresaw."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mooring.connection.state import ConnectionState
from mooring.errors import ConnectError, ErrCode
from mooring.events import Kind
from mooring.link.messages import Open, OpenFailed
from mooring.options import ConnectionOptions, ConnectionRequest
from tests.conftest import wait_for
from tests.workers.bare_worker import Service, bare_worker


class NoThreads:
    """A dialler on a machine where no thread can be started any more."""

    async def dial(self, options: ConnectionOptions) -> Any:
        raise RuntimeError("can't start new thread")

    async def close(self) -> None:
        pass


async def test_a_dial_that_fails_in_a_way_that_nobody_foresaw_ends_its_connection(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service()
    async with bare_worker(service) as runtime:
        monkeypatch.setattr(runtime, "dialler", NoThreads())
        request = ConnectionRequest(url="ws://127.0.0.1:1/")
        connection = runtime.begin(Open(7, 1, request), ConnectionOptions(url=request.url), None)
        await wait_for(lambda: service.answers)
        (answer,) = service.answers
        assert isinstance(answer, OpenFailed)
        assert (answer.request, answer.errors[0].err_code) == (7, ErrCode.UNREACHABLE)
        assert "RuntimeError" in answer.errors[0].message
        assert connection.state is ConnectionState.CLOSED
        assert [kind for events in service.frames for kind in events.kinds] == [Kind.onError, Kind.onTerminate]
        runtime.grant_ids(2, 256)
        with pytest.raises(ConnectError, match="RuntimeError"):
            await asyncio.to_thread(runtime.open, request, None)
    assert "can't start new thread" in caplog.text
