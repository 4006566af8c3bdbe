"""What is sent on a kept connection: queued, behind the queue, begun, lost; in a world without an outside."""

from __future__ import annotations

from typing import Any

import pytest

from mooring.connection.kept import KeptConnection
from mooring.link.messages_sent import Send, SendFailed, SendQueued, Sent
from tests.workers.connection.standing_loop import Transport
from tests.workers.connection.world import World


def send(
    world: World, connection: KeptConnection, request: int, *payloads: bytes, key: str | None = None, **said: Any
) -> Any:
    """Return the answer, or None while there is none."""
    answer = connection.send(Send(request, connection.id, False, list(payloads), key, **said))
    if answer is not None:
        world.answers.append(answer)
    world.loop.advance()
    return answer_to(world, request)


def answer_to(world: World, request: int) -> Any:
    found = [one for one in world.answers if getattr(one, "request", 0) == request]
    assert len(found) <= 1, "an answer comes once"
    return found[0] if found else None


def texts(transport: Transport) -> list[bytes]:
    return [payload for opcode, payload in transport.sent if opcode in (1, 2)]


def slow(transport: Transport, after: int) -> None:
    """Have the peer read too slowly from the `after`th write on."""
    written, count = transport.write, 0

    def write(data: bytes) -> None:
        nonlocal count
        written(data)
        count += 1
        if count == after:
            transport.protocol.pause_writing()

    transport.write = write  # type: ignore[method-assign]


@pytest.fixture
def world() -> World:
    return World()


def test_a_flush_that_the_peer_slows_goes_on_in_order_and_what_is_sent_meanwhile_stands_behind(world: World) -> None:
    kept, first = world.ready(when_down="queue")
    first.lose(None)
    world.loop.advance()
    for number in range(4):
        assert isinstance(send(world, kept, number + 1, b"%d" % number), SendQueued)
    transport = world.next_dial().accept()
    slow(transport, after=2)
    world.loop.advance()
    assert texts(transport) == [b"0", b"1"]
    assert send(world, kept, 9, b"live") is None, "it stands behind"
    transport.protocol.resume_writing()
    world.loop.advance()
    assert texts(transport) == [b"0", b"1", b"2", b"3", b"live"]
    assert isinstance(answer_to(world, 9), Sent)
    assert kept.update().messages_out == 5


def test_what_stands_behind_is_taken_out_after_send_timeout_and_fails_or_waits_again_at_a_loss(world: World) -> None:
    kept, first = world.ready(when_down="queue", send_timeout=1.0)
    first.lose(None)
    world.loop.advance()
    send(world, kept, 1, b"first", b"waits")
    transport = world.next_dial().accept()
    slow(transport, after=1)
    world.loop.advance()
    assert send(world, kept, 2, b"impatient", when_down="fail") is None
    world.loop.advance(1.1)
    assert answer_to(world, 2) == SendFailed(2, 0, "Connected", why="late")
    assert send(world, kept, 3, b"fails", when_down="fail") is None
    assert send(world, kept, 4, b"waits again") is None
    transport.lose(None)
    world.loop.advance()
    assert answer_to(world, 3) == SendFailed(3, 0, "Reconnecting")
    again = answer_to(world, 4)
    assert isinstance(again, SendQueued) and again.queue_id == 3
    assert world.event("onDisconnect")["queued"] == {"messages": 2, "bytes": 16}
    transport = world.next_dial().accept()
    world.loop.advance()
    assert texts(transport) == [b"waits", b"waits again"]


def test_a_frame_that_was_begun_is_never_sent_again_and_nobody_says_that_it_was_sent(world: World) -> None:  # 37
    kept, transport = world.ready(when_down="queue")
    transport.unflushed = 1
    assert send(world, kept, 1, b"half", key="k") is None
    transport.unflushed = 0
    world.loop.advance(0.01)
    assert isinstance(answer_to(world, 1), Sent)
    transport.unflushed = 1
    assert send(world, kept, 2, b"lost", key="l") is None
    transport.lose(None)
    world.loop.advance()
    assert answer_to(world, 2) == SendFailed(2, 0, "Connected", why="uncertain")
    transport = world.next_dial().accept()
    world.loop.advance()
    assert texts(transport) == []


def test_of_several_frames_it_is_told_how_many_the_kernel_has(world: World) -> None:  # 37
    kept, transport = world.ready(when_down="queue")
    frame = 6 + 10  # the header and the mask of a short one
    assert isinstance(send(world, kept, 1, b"0123456789", b"0123456789"), Sent)
    transport.unflushed = 4 * frame
    assert send(world, kept, 2, *[b"0123456789"] * 4) is None
    transport.unflushed = 2 * frame + 1  # the second of them is not whole
    assert send(world, kept, 3, b"behind") is None
    transport.unflushed += 12
    world.loop.advance(0.01)
    transport.unflushed = 0  # as that of a dead socket is
    transport.lose(None)
    world.loop.advance()
    assert answer_to(world, 2) == SendFailed(2, 1, "Connected", why="uncertain")
    assert answer_to(world, 3) == SendFailed(3, 0, "Connected", why="uncertain")


def test_the_queue_has_a_bound_and_is_told_of_once(world: World) -> None:
    kept, first = world.ready(when_down="queue")
    first.lose(None)
    world.loop.advance()
    room = world.settings.outbound_bytes
    assert isinstance(send(world, kept, 1, bytes(room)), SendQueued)
    assert send(world, kept, 2, b"x") == SendFailed(2, 0, "Reconnecting", why="full")
    kept.terminate(None, None)
    assert world.kinds()[-2:] == ["onUnsent", "onTerminate"]
    event = world.event("onUnsent")
    assert (event["reason"], event["count"], event["bytes"], event["messages"]) == ("terminated", 1, room, [])
    assert world.metrics.unsent == {"terminated": 1} and world.metrics.queued_messages == 0


@pytest.mark.parametrize("read_s", [0.01, 60.0])
def test_what_the_peer_read_while_we_stood_still_was_sent(world: World, read_s: float) -> None:
    """Line 1 of the issue of faults: a judge that is late looks once more, after what can be written was written."""
    kept, transport = world.ready(when_down="queue")
    transport.unflushed = 1
    assert send(world, kept, 1, b"half", key="k") is None
    world.loop.advance(0.1)
    world.loop.now += 60.0  # SIGSTOP: longer than sendTimeout
    world.loop.call_later(read_s, setattr, transport, "unflushed", 0)
    world.loop.advance(1.0)
    answer = answer_to(world, 1)
    assert isinstance(answer, Sent) if read_s < 1 else answer == SendFailed(1, 0, "Connected", why="uncertain")
