"""Numbered events, kept until they are stored."""

from __future__ import annotations

from collections.abc import Iterator

from mooring.link.messages import Events, report_decoder
from mooring.link.outbox import Outbox


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
