"""What the command line says of a connection that has no socket: what it does about it, and until when."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mooring_api.commands.words import down_in_words, duration, in_words, ordinal
from mooring_service.records import DownRecord
from tests.command_line import mooring, run
from tests.conftest import RunningService
from tests.end_to_end.test_kept import status_of
from tests.servers import EchoServer

NOW = 1_800_000_000.0
AT = "2027-01-15T08:00:12.000000Z"  # twelve seconds later


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (0.254, "0.25 s"), (9.94, "9.9 s"), (12.4, "12 s"), (250, "4 min 10 s"), (3600, "1 h"), (90000, "1 d 1 h")],
)  # fmt: skip
def test_a_duration_is_said_as_somebody_says_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_ordinals() -> None:
    assert [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 111)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "111th"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("phase", "attempt", "next_at", "said"),
    [
        ("waiting", 3, AT, "4th in 12 s"),
        ("limited", 3, None, "4th limited"),
        ("renewing", 4, None, "4th renewing"),
        ("dialling", 4, None, "4th dialling"),
        ("opening", 1, None, "1st opening"),
        ("blocked", 0, None, "blocked"),
    ],
)
def test_what_it_does_is_said_in_the_words_of_the_record(
    phase: str, attempt: int, next_at: str | None, said: str
) -> None:
    down = DownRecord("2027-01-15T08:00:00Z", phase, attempt, next_at, 1006, "", [], None)
    assert down_in_words(down, NOW) == said


def test_a_gap_is_one_line() -> None:
    back = {
        "socket": 2, "downMs": 3213.532, "attempts": 4, "gapFrom": "2026-11-28T12:00:01.123456Z", "restarted": False, "resumed": None
    }  # fmt: skip
    assert in_words("onReconnect", back) == (
        "socket 2 after 3.2 s, at attempt 4; messages may be missing since 12:00:01.123"
    )
    lost = {"socket": 1, "code": 1012, "cause": "peer", "reason": "", "errors": [], "nextAttemptAt": None}
    assert in_words("onDisconnect", lost) == "socket 1, peer: 1012; next attempt: when its worker is back"


async def test_ls_show_top_and_tail_say_what_is_down_and_until_when(service: RunningService, echo: EchoServer) -> None:
    kept = str((await service.open(echo.url, reconnect={"minDelay": 0.05}))["id"])
    down = (await service.open(echo.url, reconnect={"minDelay": 3600, "maxDelay": 3600}))["id"]
    await service.open(echo.url)
    await echo.sockets[1].close(code=1001, message=b"deploying")
    await status_of(service, down, "Reconnecting")
    lines = (await mooring(service, "ls")).out.splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["Connected", "Reconnecting", "Connected"]
    assert " 1st in " in lines[2] and " 1st " not in lines[1] + lines[3]
    shown = (await mooring(service, "show", str(down))).out
    assert "last error 1001 deploying" in " ".join(shown.split())
    assert "minDelay 3600, maxDelay 3600" in shown
    assert "reconnect" not in (await mooring(service, "show", "3")).out
    top = (await mooring(service, "top", "--count", "1")).out
    assert "DOWN" in top and "1 waiting, next in " in top
    await echo.sockets[0].close(code=1012)
    await service.events(int(kept), until="onReconnect")
    told = (await mooring(service, "tail", kept, "--limit", "3")).out.splitlines()
    assert "onDisconnect socket 1, peer: 1012; next attempt: " in told[1]
    assert "onReconnect socket 2 after " in told[2] and "messages may be missing since " in told[2]


async def test_show_tells_what_was_asked_for_and_what_waits(service: RunningService, echo: EchoServer) -> None:
    slow = {"minDelay": 3600, "maxDelay": 3600}
    keep_alive = {"send": "ping", "interval": 30}
    kept = (
        await service.open(
            echo.url,
            reconnect=slow,
            whenDown="queue",
            queueTtl=120,
            keepAlive=keep_alive,
            dataTimeout=600,
            requests="jsonrpc",
        )
    )["id"]
    await echo.sockets[0].close(code=1012)
    await status_of(service, kept, "Reconnecting")
    await service.send(kept, "later", status=202)
    shown = " ".join((await mooring(service, "show", str(kept))).out.split())
    for words in (
        "last error 1012", "keepAlive {", '"interval":30', "requests jsonrpc", "dataTimeout 600 s, whenSilent reconnect",
        "whenDown queue, queueTtl 120 s", "queued 1 message, 5 bytes",
    ):  # fmt: skip
        assert words in shown, shown


async def test_top_goes_on_while_a_service_that_was_restarted_says_that_it_starts() -> None:
    starting = b'{"type":"urn:mooring:problem:unavailable","status":503,"detail":"the service is starting"}'
    looks = itertools.count()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        status, body = b"200 OK", b'{"workers":[]}'
        if asked.startswith(b"GET /v1/connections"):
            body = b'{"connections":[],"next":null}'
            if next(looks) in (1, 2):
                status, body = b"503 Service Unavailable", starting
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        ran = await run("--url", where, "top", "--json", "--interval", "0.2", "--count", "2")
    assert (ran.code, ran.errors, ran.out.count("\n")) == (0, "", 2)
    assert next(looks) == 4
