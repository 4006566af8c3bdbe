"""Numbered events, kept until they are stored."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from mooring.errors import LinkError
from mooring.link.messages import AskCall, Events, report_decoder
from mooring.link.outbox import FRAME_CONNECTIONS, GROUP_BYTES, Outbox
from mooring.link.record import ConnectionUpdate


class _Connection:
    def __init__(self, connection: int) -> None:
        self.id_bytes = connection.to_bytes(8, "little")
        self.recorded_seq = 0
        self.ended = False

    def take_created(self) -> None:
        return None

    def update(self) -> None:
        return None

    def mark_ended(self) -> None:
        self.ended = True


def _numbers(frames: list[bytes]) -> Iterator[int]:
    for data in frames:
        decoded = report_decoder.decode(data[4:])
        assert isinstance(decoded, Events)
        yield decoded.number


def test_when_its_oldest_event_was_recorded_is_told_by_the_clock_that_all_processes_share() -> None:
    sent: list[bytes] = []
    outbox = Outbox(1 << 20, lambda data: not sent.append(data), lambda: None)
    before = time.monotonic_ns() // 1000
    outbox.add(_Connection(1), b"\x02", b"x", 1)
    outbox.flush()
    decoded = report_decoder.decode(sent[0][4:])
    assert isinstance(decoded, Events)
    assert before <= decoded.began_at_us <= time.monotonic_ns() // 1000


def test_many_events_of_one_read_go_in_frames_that_the_link_can_hold() -> None:
    frames: list[Events] = []
    connection = _Connection(7)
    events = [b"%d:" % n + b"x" * size for n, size in enumerate([10, 700_000, 700_000, 3_000_000, 20, 30, 600_000, 5])]
    seqs: list[int] = []

    def send(data: bytes) -> bool:
        decoded = report_decoder.decode(data[4:])
        assert isinstance(decoded, Events)
        frames.append(decoded)
        seqs.append(connection.recorded_seq)
        return True

    outbox = Outbox(1 << 40, send, lambda: None)
    outbox.add(connection, b"\x02", b"before", 1)
    outbox.add(connection, b"\x02" * len(events), b"\n".join(events), 1 + len(events))
    outbox.add(connection, b"\x04", b"after", 2 + len(events), ended=True)
    outbox.flush()
    assert b"\n".join(one.bodies for one in frames).split(b"\n") == [b"before", *events, b"after"]
    assert [len(one.kinds) for one in frames] == [len(one.connections) // 8 for one in frames]
    assert max(len(one.bodies) for one in frames) < 3_000_000 + 1_100_000, "an event, and what had room before it"
    assert seqs == [4, 5, 10], "a record never runs ahead of its events"
    assert connection.ended and connection.recorded_seq == 10
    outbox.stored(outbox.number)
    assert outbox.held_bytes == 0


def test_ends_of_thousands_of_connections_go_in_frames_that_are_folded_in_a_moment() -> None:
    sent: list[bytes] = []
    outbox = Outbox(1 << 20, lambda data: not sent.append(data), lambda: None)
    for number in range(3 * FRAME_CONNECTIONS + 1):
        outbox.add(_Connection(number + 1), b"\x02\x04", b"1\n2", 2, ended=True)
    outbox.flush()
    frames = [report_decoder.decode(data[4:]) for data in sent]
    assert [len(one.connections) // 16 for one in frames if isinstance(one, Events)] == [FRAME_CONNECTIONS] * 3 + [1]


def test_a_frame_is_kept_byte_for_byte_until_it_is_stored() -> None:
    sent: list[bytes] = []
    link = [True]

    def send(data: bytes) -> bool:
        if link[0]:
            sent.append(data)
        return link[0]

    room: list[int] = []
    outbox = Outbox(1_000, send, lambda: room.append(1))
    one = _Connection(1)
    for n in range(3):
        outbox.add(one, b"\x02", b"%d" % n, n + 1)
        outbox.flush()
    assert list(_numbers(sent)) == [1, 2, 3]
    outbox.stored(1)
    link[0] = False
    outbox.add(one, b"\x02", b"x" * 2_000, 4)
    outbox.flush()
    assert outbox.full
    before = list(sent)
    sent.clear()
    link[0] = True
    outbox.resend(1)
    assert list(_numbers(sent)) == [2, 3, 4]
    assert sent[:2] == before[1:], "verbatim"
    assert not room
    outbox.stored(4)
    assert room == [1]
    assert outbox.held_frames == 0


def test_what_is_on_its_way_is_counted_over_acknowledgements_and_lost_links() -> None:
    taken: list[bytes] = []
    takes = [3]

    def send(data: bytes) -> bool:
        if takes[0]:
            takes[0] -= 1
            taken.append(data)
            return True
        return False

    outbox = Outbox(1 << 20, send, lambda: None)
    one = _Connection(1)
    for n in range(5):
        outbox.add(one, b"\x02", b"x" * 100 * (n + 1), n + 1)
        outbox.flush()

    def on_its_way(*frames: bytes) -> bool:
        return outbox.sent_bytes == sum(map(len, frames))

    assert on_its_way(*taken) and outbox.unsent == 2
    outbox.stored(2)
    assert on_its_way(taken[2]) and outbox.unsent == 2
    outbox.stored(4)  # a link before had taken it
    assert on_its_way() and outbox.unsent == 1
    outbox.resend(4)
    assert on_its_way() and outbox.unsent == 1
    takes[0] = 9
    outbox.send_unsent()
    assert on_its_way(taken[-1]) and outbox.unsent == 0
    outbox.resend(4)
    assert on_its_way(taken[-1])
    outbox.stored(5)
    assert on_its_way() and outbox.held_bytes == 0


def test_what_comes_while_a_frame_is_on_its_way_shares_the_next_one_and_what_is_large_does_not_wait() -> None:
    sent: list[bytes] = []
    outbox = Outbox(1 << 20, lambda data: not sent.append(data), lambda: None)
    connection = _Connection(1)

    def add(seq: int, body: bytes) -> bool:
        outbox.add(connection, b"\x02", body, seq)
        return outbox.flush_behind()

    assert add(1, b"after quiet"), "at once"
    assert [add(seq, b"behind it") for seq in (2, 3, 4)] == [False] * 3
    assert list(_numbers(sent)) == [1]
    outbox.stored(1)
    assert outbox.flush_behind()
    last = report_decoder.decode(sent[-1][4:])
    assert isinstance(last, Events) and (last.number, len(last.kinds)) == (2, 3)
    assert not add(5, b"small") and add(6, b"x" * GROUP_BYTES), "so much waits for nothing"
    assert list(_numbers(sent)) == [1, 2, 3]
    outbox.stored(3)
    assert outbox.flush_behind() and outbox.first_unstored == 4


class _Faulty(_Connection):
    """Of which nothing can be told: the one raises, of the other what it says cannot be encoded."""

    def __init__(self, connection: int, *, raises: bool) -> None:
        super().__init__(connection)
        self.raises = raises

    def update(self) -> ConnectionUpdate:
        if self.raises:
            raise ValueError("a fault of ours")
        return ConnectionUpdate(int.from_bytes(self.id_bytes, "little"), "\ud800")


class _Sound(_Connection):
    def update(self) -> ConnectionUpdate:
        return ConnectionUpdate(int.from_bytes(self.id_bytes, "little"), "Connected")


class _Watcher:
    def __init__(self, *, raises: bool = False) -> None:
        self.raises = raises
        self.told: list[tuple[str, int]] = []

    def framed(self, number: int) -> None:
        self._hear("framed", number)

    def stored(self, number: int) -> None:
        self._hear("stored", number)

    def _hear(self, what: str, number: int) -> None:
        if self.raises:
            raise KeyError(what)
        self.told.append((what, number))


def test_what_of_a_frame_cannot_be_made_or_told_is_left_out_and_the_log_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[bytes] = []
    room: list[int] = []
    outbox = Outbox(20, lambda data: not sent.append(data), lambda: room.append(1))
    sound, watcher = _Sound(3), _Watcher()
    outbox.watch(_Watcher(raises=True))
    outbox.watch(watcher)
    for connection in (_Faulty(1, raises=True), _Faulty(2, raises=False), sound):
        outbox.add(connection, b"\x02", b"event %d" % connection.id_bytes[0], 1)
        outbox.touch(connection)
    outbox.ask(AskCall("w", "f", ["\udfff"]))
    outbox.ask(AskCall("w", "f", ["fine"]))
    assert outbox.full
    outbox.flush()
    outbox.add(sound, b"\x02", b"later", 2)
    outbox.flush()
    first, second = (report_decoder.decode(data[4:]) for data in sent)
    assert isinstance(first, Events) and isinstance(second, Events)
    assert (first.number, first.bodies, second.number, second.bodies) == (1, b"event 1\nevent 2\nevent 3", 2, b"later")
    assert [update.id for update in first.updates] == [update.id for update in second.updates] == [3]
    assert first.asks == [AskCall("w", "f", ["fine"])]
    outbox.stored(2)
    assert watcher.told == [("framed", 1), ("framed", 2), ("stored", 2)]
    assert room == [1] and outbox.held_bytes == 0
    for of_which in (
        "a fault of ours",
        "a ConnectionUpdate is",
        "a AskCall is",
        "KeyError('framed')",
        "KeyError('stored')",
    ):
        assert of_which in caplog.text


def test_events_that_fit_no_frame_leave_no_number_and_no_bytes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring.link.channel.MAX_FRAME_BYTES", 1_000)
    sent: list[bytes] = []
    outbox = Outbox(1_500, lambda data: not sent.append(data), lambda: None)
    outbox.add(_Connection(1), b"\x02", b"x" * 2_000, 1)
    with pytest.raises(LinkError):
        outbox.flush()
    # What waits for a number would wait for ever, and what counts bytes read no more.
    assert outbox.number == 0 and outbox.held_bytes == 0 and not outbox.full
    outbox.add(_Connection(2), b"\x02", b"fits", 1)
    outbox.flush()
    assert list(_numbers(sent)) == [1]


def test_each_kind_of_what_is_left_out_is_logged_once_however_they_alternate(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(1 << 20, lambda data: True, lambda: None)
    outbox.watch(_Watcher(raises=True))
    for number in range(1, 11):
        outbox.add(_Sound(1), b"\x02", b"1", number)
        outbox.flush()
        outbox.stored(number)
    assert sum(" is left out" in record.message for record in caplog.records) == 2
