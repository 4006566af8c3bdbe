"""Opening, where a deadline would be too long to wait for through the API; the worker is a real process all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.options import ConnectionRequest, HandlerRequest
from mooring_service import opening
from mooring_service.config import Config, JournalConfig
from mooring_service.journal.memory import MemoryJournal
from mooring_service.opening import OpenError
from mooring_service.service import Service
from tests.conftest import ROOT
from tests.servers import EchoServer


async def test_what_the_worker_does_not_come_to_in_time_is_given_up_and_never_opened(
    tmp_path: Path, echo: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "HANDLER_TIME_S", 0.2)
    module = "tests.end_to_end.user_code"
    config = Config(
        handlers={"h": f"{module}:Recorder"}, functions={"sleep": f"{module}:sleep", "pid": f"{module}:pid"}
    )
    service = Service(config, tmp_path, MemoryJournal(JournalConfig(store="memory")), app_dirs=[str(ROOT)])
    await service.start()
    try:
        await service.workers.call_later("main", "sleep", [2])
        request = ConnectionRequest(url=echo.url, handler=HandlerRequest(name="h"), connect_timeout=0.3)
        begun = await service.connections.open(request)
        with pytest.raises(OpenError) as caught:
            await asyncio.wait_for(begun.done, 1.8)
        assert caught.value.timed_out and caught.value.connection == begun.connection
        record = service.connections.record(begun.connection)
        assert record.status == "Closed" and record.errors == caught.value.errors
        await service.workers.call("main", "pid", [])  # the context has come past it
        assert echo.peers == []
    finally:
        await service.stop()
