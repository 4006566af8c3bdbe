"""What the threads of one worker have its I/O loop do, and how far they may run ahead of it."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import pytest

from mooring.connection.recorded import RecordedConnection
from mooring.connection.state import ConnectionState
from mooring.errors import SendError
from mooring.options import ConnectionOptions
from mooring.process import threads
from mooring.process.threads import Posts, Reservations
from tests.conftest import wait_for


class Connection:
    """As much of one as reservations look at."""

    id = 1
    reserved = 0
    state = ConnectionState.CONNECTED
    options = ConnectionOptions(url="ws://x/", send_timeout_s=0.1)


PATIENT = ConnectionOptions(url="ws://x/", send_timeout_s=60)


def _connection() -> Any:
    return cast("RecordedConnection", Connection())


def test_a_send_waits_for_room_for_its_time() -> None:
    room = Reservations(1_000)
    connection = _connection()
    assert room.reserve(connection, 5_000)  # the first may be of any size
    with pytest.raises(SendError):
        room.reserve(connection, 1)
    connection.options = PATIENT
    threading.Timer(0.02, room.release, (connection, 5_000)).start()
    assert room.reserve(connection, 1)


def test_what_waits_for_a_connection_that_ends_is_not_reserved() -> None:
    room = Reservations(1_000)
    connection = _connection()
    connection.options = PATIENT
    room.reserve(connection, 5_000)

    def ends() -> None:
        connection.state = ConnectionState.CLOSED
        room.release(connection, 5_000)

    threading.Timer(0.02, ends).start()
    assert not room.reserve(connection, 1_000)
    assert connection.reserved == 0


def test_messages_without_a_payload_are_bounded_too() -> None:
    room = Reservations(4_000)
    connection = _connection()
    count = 0
    with pytest.raises(SendError):
        for _ in range(1_000):
            room.reserve(connection, 0)
            count += 1
    assert 5 < count < 50
    for _ in range(count):
        room.release(connection, 0)
    assert connection.reserved == 0


def test_a_send_is_not_given_up_before_the_io_loop_has_looked_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "PASS_S", 60.0)
    room = Reservations(1_000)
    connection = _connection()
    room.reserve(connection, 1_000)
    late = threading.Timer(
        0.3, room.release, (connection, 1_000)
    )  # after a worker that stood still, the loop comes second
    late.start()
    room.reserve(connection, 1_000)


async def test_what_is_posted_is_done_whatever_raises_before_it() -> None:
    loop = asyncio.get_running_loop()
    told: list[object] = []
    loop.set_exception_handler(lambda _, context: told.append(context.get("exception")))
    done: list[str] = []
    posts = Posts(loop, lambda: done.append("afterwards"))
    wrong = ValueError("wrong")

    def raises() -> None:
        raise wrong

    posts.post(raises)
    posts.post(done.append, "behind it")  # nobody wakes the loop once more for this one
    await wait_for(lambda: "afterwards" in done)
    assert done == ["behind it", "afterwards"]
    assert told == [wrong], "the loop tells of it"
    posts.post(raises)
    await wait_for(lambda: len(done) == 3)
    assert done[2] == "afterwards", "what was recorded is handed over all the same"
