"""The ways to the engine of which tests are made: their process says nothing that is not asked for, however it ends."""

from __future__ import annotations

import contextlib
import socket

import pytest

from tests.cluster_kit.proxy import Proxies


@pytest.mark.parametrize("mode", ["pass_on", "hold", "cut"])
def test_a_process_that_ends_under_its_connections_says_nothing(capfd: pytest.CaptureFixture[str], mode: str) -> None:
    with contextlib.ExitStack() as stack:
        engine = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        way = Proxies([one.getsockname()[1] for one in engine])
        getattr(way, mode)()
        for url in way.urls:
            dialled = stack.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 60))
            dialled.sendall(b"PING\r\n")
        if mode != "hold":
            for one in engine:
                one.settimeout(60)
                stack.enter_context(one.accept()[0])
        way.close()
    assert capfd.readouterr().err == ""
