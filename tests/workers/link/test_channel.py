"""The link's frames."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from hypothesis import example, given
from hypothesis import strategies as st

from mooring.errors import LinkError
from mooring.link import channel as channel_module
from mooring.link.channel import Channel, FrameSplitter, frame
from mooring.link.messages import Events, Goodbye, Probe, Report, Stats, command_decoder, report_decoder
from mooring.link.messages_sent import Send
from tests.conftest import wait_for


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 97))
def test_the_links_frames_come_out_as_they_went_in(payloads: list[bytes], step: int) -> None:
    data = b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads)
    splitter = FrameSplitter()
    found: list[bytes] = []
    for at in range(0, len(data), step):
        found += [bytes(view) for view in splitter.feed(data[at : at + step])]
    assert found == payloads


def test_a_frame_over_the_bound_is_an_error_before_it_comes() -> None:
    with pytest.raises(LinkError):
        FrameSplitter(100).feed(struct.pack(">I", 101))


async def test_what_the_other_end_would_not_take_is_refused_by_the_sender_and_the_link_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(channel_module, "MAX_FRAME_BYTES", 1_000)
    ours, theirs = socket.socketpair()
    got: list[Any] = []
    lost: list[Exception | None] = []
    loop = asyncio.get_running_loop()

    def make(decoder: Any) -> Channel[Any]:
        return Channel(decoder, lambda channel, messages: got.extend(messages), lambda channel, exc: lost.append(exc))

    _, sender = await loop.create_connection(lambda: make(report_decoder), sock=ours)
    await loop.create_connection(lambda: make(command_decoder), sock=theirs)
    with pytest.raises(LinkError, match=r"Send of 1.... bytes: at most 1000 fit"):
        sender.send(Send(1, 2, True, [bytes(10_000)]))
    sender.send(Send(3, 2, True, [bytes(100)]))
    await wait_for(lambda: got)
    assert [command.request for command in got] == [3]
    assert lost == []
    sender.abort()
    await wait_for(lambda: len(lost) == 2)


@given(st.binary(max_size=300))
@example(bytes.fromhex("91a180"))  # a text that is not UTF-8
@example(b"\x91" * 100_000)  # deeply nested
def test_garbage_on_the_link_ends_the_link_and_nothing_else(data: bytes) -> None:
    async def take(decoder: Any) -> Exception | None:
        lost: list[Exception | None] = []
        channel = Channel(decoder, lambda channel, messages: None, lambda channel, exc: lost.append(exc))
        channel.data_received(struct.pack(">I", len(data)) + data)
        channel.connection_lost(None)
        return lost[0]

    for decoder in (command_decoder, report_decoder):
        assert isinstance(asyncio.run(take(decoder)), LinkError | None)


def test_the_links_first_version_is_what_old_workers_will_speak() -> None:
    # Golden bytes: a change here breaks workers that hold old code; raise PROTOCOL_VERSION then.
    data = frame(Events(7, (3).to_bytes(8, "little"), b"\x02", b'{"x":1}', [], [], []))
    assert data.hex() == (
        "0000002399a6" + b"Events".hex() + "07c4080300000000000000c40102c407" + b'{"x":1}'.hex() + "90909000"
    )


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_what_the_other_end_has_said_before_it_went_is_read_also_where_a_write_tells_of_that(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    heard: list[Report] = []
    lost: list[Exception | None] = []

    async def write_to_who_has_gone() -> None:
        ours, theirs = socket.socketpair()
        channel = Channel(report_decoder, lambda _, found: heard.extend(found), lambda _, exc: lost.append(exc))
        await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
        channel.read_to_the_end()
        theirs.sendall(frame(Stats()) + frame(Goodbye(1, 2)))
        theirs.close()
        channel.send(Probe())  # in the same pass: nothing is read before
        channel.flush()
        while not lost:
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(write_to_who_has_gone())
    assert heard == [Stats(), Goodbye(1, 2)]
    assert isinstance(lost[0], BrokenPipeError)


async def test_the_end_is_told_also_where_what_was_said_before_cannot_be_taken() -> None:
    wrong = ValueError("a fault of ours")
    told: list[object] = []
    lost: list[Exception | None] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context.get("exception")))

    def take(channel: Channel[Report], found: list[Report]) -> None:
        raise wrong

    ours, theirs = socket.socketpair()
    channel = Channel(report_decoder, take, lambda _, exc: lost.append(exc))
    await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
    channel.read_to_the_end()
    theirs.sendall(frame(Stats()))
    theirs.close()
    channel.send(Probe())  # in the same pass: nothing is read before
    channel.flush()
    await wait_for(lambda: lost and told)
    assert [type(exc) for exc in lost] == [BrokenPipeError]
    assert told == [wrong], "the loop tells of it"
