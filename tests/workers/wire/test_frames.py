"""The frame parser against RFC 6455 and 7692, whole and in pieces."""

from __future__ import annotations

import os
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring.wire.frames import (
    BINARY,
    CLOSE,
    INFLATED_BYTES,
    PING,
    PONG,
    TEXT,
    Deflate,
    Deflater,
    FrameParser,
    close_payload,
    encode_frame,
    parse_close,
)
from tests.servers import frame

LIMIT = 1_000


def parse(
    data: bytes, *, step: int = 0, deflate: Deflate | None = None, limit: int = LIMIT
) -> tuple[FrameParser, list[tuple[int, bytes]]]:
    parser = FrameParser(limit, deflate)
    items: list[tuple[int, bytes]] = []
    for at in range(0, len(data), step or max(1, len(data))):
        items += parser.feed(data[at : at + (step or len(data))])
    return parser, items


GOOD = [
    ("text", frame(1, b"hello"), [(TEXT, b"hello")]),
    ("empty text", frame(1, b""), [(TEXT, b"")]),
    ("binary of 126", frame(2, b"x" * 126), [(BINARY, b"x" * 126)]),
    ("at the limit", frame(2, b"x" * LIMIT), [(BINARY, b"x" * LIMIT)]),
    ("fragments", frame(1, b"he", fin=False) + frame(0, b"l", fin=False) + frame(0, b"lo"), [(TEXT, b"hello")]),
    ("ping between fragments", frame(1, b"a", fin=False) + frame(9, b"p") + frame(0, b"b"), [(PING, b"p"), (TEXT, b"ab")]),
    ("pong", frame(10, b"q"), [(PONG, b"q")]),
    ("empty fragments", frame(1, b"", fin=False) + frame(0, b"", fin=False) * 100 + frame(0, b"x"), [(TEXT, b"x")]),
]  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 2, 7])
@pytest.mark.parametrize(("name", "data", "expected"), GOOD, ids=[row[0] for row in GOOD])
def test_good_frames_in_pieces_of_any_size(
    name: str, data: bytes, expected: list[tuple[int, bytes]], step: int
) -> None:
    parser, items = parse(data, step=step)
    assert items == expected
    assert parser.failure is None


BAD = [
    ("masked", frame(1, b"hi", mask=b"abcd"), 1002),
    ("masked and long", frame(1, b"h" * 200, mask=b"abcd"), 1002),
    ("rsv1", frame(1, b"hi", rsv=4), 1002),
    ("rsv2", frame(1, b"hi", rsv=2), 1002),
    ("rsv3 on a control frame", frame(9, b"hi", rsv=1), 1002),
    ("unknown data opcode", frame(3, b"hi"), 1002),
    ("unknown control opcode", frame(11, b"hi"), 1002),
    ("fragmented ping", frame(9, b"hi", fin=False), 1002),
    ("ping of 126", frame(9, b"x" * 126), 1002),
    ("continuation first", frame(0, b"hi"), 1002),
    ("new message inside a fragmented one", frame(1, b"a", fin=False) + frame(1, b"b"), 1002),
    ("new fragmented message inside one", frame(1, b"a", fin=False) + frame(2, b"b", fin=False), 1002),
    ("length 2^63", frame(2, b"", length=1 << 63), 1002),
    ("over the limit", frame(2, b"x" * (LIMIT + 1)), 1009),
    ("a huge length is refused before it comes", frame(2, b"", length=1 << 40), 1009),
    ("fragments over the limit", frame(2, b"x" * 600, fin=False) + frame(0, b"x" * 600), 1009),
    ("close of one byte", frame(8, b"\x03"), 1002),
    ("close reason not UTF-8", frame(8, b"\x03\xe8\xff"), 1007),
    *(
        (f"close {code}", frame(8, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 2999, 5000)
    ),
]


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize(("name", "data", "code"), BAD, ids=[row[0] for row in BAD])
def test_what_breaks_the_protocol_is_refused_with_its_code(name: str, data: bytes, code: int, step: int) -> None:
    parser, items = parse(frame(1, b"before") + data + frame(1, b"after"), step=step)
    assert parser.failure is not None
    assert parser.failure.code == code
    assert items[0] == (TEXT, b"before"), "what came before it counts"
    assert (TEXT, b"after") not in items, "nothing after it does"


@pytest.mark.parametrize("step", [0, 1, 5])
def test_after_a_failure_only_the_peers_close_frame_is_seen(step: int) -> None:
    data = (
        frame(3, b"bad")
        + frame(1, b"x" * 300)
        + frame(9, b"p")
        + frame(1, b"m", mask=b"abcd")
        + frame(8, close_payload(1002, "ok"))
    )
    parser, items = parse(data, step=step)
    assert items == []
    assert parser.peer_close == (1002, "ok")


NOT_CLOSED = [
    ("fragmented", frame(8, close_payload(1000), fin=False)),
    ("masked", frame(8, close_payload(1000), mask=b"abcd")),
    ("with an RSV bit", frame(8, close_payload(1000), rsv=4)),
    ("too long", frame(8, close_payload(1000, "x" * 200))),
    ("of one byte", frame(8, b"\x03")),
    ("with a code that may not be sent", frame(8, b"\x03\xed")),
    ("with a reason that is not UTF-8", frame(8, b"\x03\xe8\xff")),
]


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("before", [b"", frame(3, b"bad")], ids=["as the failure", "after a failure"])
@pytest.mark.parametrize(("name", "data"), NOT_CLOSED, ids=[row[0] for row in NOT_CLOSED])
def test_a_close_frame_that_is_not_valid_closes_nothing(name: str, data: bytes, before: bytes, step: int) -> None:
    parser, items = parse(before + data, step=step)
    assert parser.failure is not None and parser.failure.code in (1002, 1007)
    assert (parser.peer_close, items) == (None, [])
    parser.feed(frame(1, b"m") + frame(8, close_payload(4000, "now")))
    assert parser.peer_close == (4000, "now")


def test_nothing_after_a_close_frame_is_seen() -> None:
    parser, items = parse(frame(8, close_payload(1000)) + frame(1, b"late"))
    assert items == []
    assert parser.peer_close == (1000, "")


def test_a_deflate_bomb_is_refused_without_being_inflated() -> None:
    bomb = zlib.compressobj(wbits=-15)
    data = bomb.compress(b"\0" * 50_000_000) + bomb.flush(zlib.Z_SYNC_FLUSH)
    parser, items = parse(frame(2, data[:-4], rsv=4), deflate=Deflate(), limit=1_000_000)
    assert parser.failure is not None and parser.failure.code == 1009
    assert items == []


@pytest.mark.parametrize("step", [0, 7, 1_000])
def test_one_feed_inflates_only_so_much_and_the_next_ones_go_on(step: int) -> None:
    size, count = 300_000, 40
    messages = [bytes((65 + at % 26,)) * size for at in range(count)]
    data = b"".join(frame(1, compressed(message)[:-4], rsv=4) for message in messages)
    assert len(data) < size / 10
    deflate = Deflate(server_no_context_takeover=True)
    parser = FrameParser(size, deflate)
    found: list[bytes] = []
    most = 0
    for at in range(0, len(data), step or len(data)):
        items = parser.feed(data[at : at + (step or len(data))])
        while True:
            found += [payload for _, payload in items]
            most = max(most, sum(len(payload) for _, payload in items))
            if not parser.more:
                break
            items = parser.feed(b"")
    assert found == messages
    assert most <= INFLATED_BYTES + size
    parser.feed(data + frame(8, close_payload(4000, "now")))
    while parser.more:
        assert parser.peer_close is None
        parser.feed(b"")
    assert parser.peer_close == (4000, "now")


@pytest.mark.parametrize(
    "deflate", [Deflate(), Deflate(server_no_context_takeover=True, client_no_context_takeover=True)]
)
def test_compressed_messages_round_trip(deflate: Deflate) -> None:
    deflater = Deflater(deflate)
    parser = FrameParser(10_000, deflate)
    for payload in (b"hello" * 50, b"", b"hello" * 50, os.urandom(500)):
        items = parser.feed(frame(1, deflater.compress(payload), rsv=4))
        assert items == [(TEXT, payload)]


def compressed(payload: bytes, mode: int = zlib.Z_SYNC_FLUSH, wbits: int = -15) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(payload) + packer.flush(mode)


HELLO = compressed(b"hello" * 20)[:-4]
LAST = compressed(b"hello" * 20, zlib.Z_FINISH)  # BFINAL is 1 (RFC 7692 section 7.2.3.4)
COMPRESSED = [
    ("one frame", frame(1, HELLO, rsv=4), [(TEXT, b"hello" * 20)]),
    ("fragments", frame(1, HELLO[:3], rsv=4, fin=False) + frame(0, HELLO[3:5], fin=False) + frame(0, HELLO[5:]), [(TEXT, b"hello" * 20)]),
    ("control frames between", frame(1, HELLO[:3], rsv=4, fin=False) + frame(9, b"p") + frame(0, b"", fin=False) + frame(10, b"q") + frame(0, HELLO[3:]), [(PING, b"p"), (PONG, b"q"), (TEXT, b"hello" * 20)]),
    ("not compressed all the same", frame(1, b"plain") + frame(1, HELLO, rsv=4), [(TEXT, b"plain"), (TEXT, b"hello" * 20)]),
    ("empty", frame(1, b"\x00", rsv=4) + frame(1, b"", rsv=4), [(TEXT, b""), (TEXT, b"")]),
    ("a last block, and one that follows", frame(1, LAST, rsv=4) + frame(1, LAST + b"\x00", rsv=4) + frame(1, HELLO, rsv=4), [(TEXT, b"hello" * 20)] * 3),
    ("a smaller window", frame(1, compressed(b"hello" * 20, wbits=-9)[:-4], rsv=4), [(TEXT, b"hello" * 20)]),
    ("at the limit", frame(2, compressed(b"x" * LIMIT)[:-4], rsv=4), [(BINARY, b"x" * LIMIT)]),
]  # fmt: skip


@pytest.mark.parametrize("step", [0, 1, 4])
@pytest.mark.parametrize(("name", "data", "expected"), COMPRESSED, ids=[row[0] for row in COMPRESSED])
def test_compressed_messages_in_every_shape(
    name: str, data: bytes, expected: list[tuple[int, bytes]], step: int
) -> None:
    parser, items = parse(data, step=step, deflate=Deflate())
    assert items == expected
    assert parser.failure is None


@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_HUFFMAN_ONLY])
@pytest.mark.parametrize(("wbits", "level", "memory"), [(-15, 6, 8), (-15, 0, 8), (-9, 9, 1), (-9, 1, 1)])
@pytest.mark.parametrize("size", [1, 1_000, 100_000])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_message_of_the_largest_size_passes_though_compressing_made_it_larger(
    strategy: int, wbits: int, level: int, memory: int, size: int, pieces: int
) -> None:
    payload = bytes(160 + byte % 96 for byte in os.urandom(size))  # the long ones of the fixed codes
    packer = zlib.compressobj(level, wbits=wbits, memLevel=memory, strategy=strategy)
    data = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
    step = -(-len(data) // pieces)
    parts = [data[at : at + step] for at in range(0, len(data), step)]
    frames = [
        frame(0 if at else 2, part, rsv=0 if at else 4, fin=at == len(parts) - 1) for at, part in enumerate(parts)
    ]
    parser, items = parse(b"".join(frames), deflate=Deflate(), limit=size)
    assert (parser.failure, items) == (None, [(BINARY, payload)])
    parser, items = parse(b"".join(frames), deflate=Deflate(), limit=size - 1)
    assert parser.failure is not None and parser.failure.code == 1009
    assert items == []


def test_compressed_frames_that_can_inflate_to_nothing_small_enough_are_refused_before_they_come() -> None:
    parser, _ = parse(frame(2, length=2 * LIMIT, rsv=4), deflate=Deflate())
    assert parser.failure is not None and parser.failure.code == 1009
    parser, _ = parse(frame(2, b"x" * LIMIT, rsv=4, fin=False) + frame(0, length=LIMIT), deflate=Deflate())
    assert parser.failure is not None and parser.failure.code == 1009
    parser, _ = parse(frame(2, length=LIMIT + 1), deflate=Deflate())
    assert parser.failure is not None and parser.failure.code == 1009, "what is not compressed has no overhead"


def taken_over() -> list[bytes]:
    packer = zlib.compressobj(wbits=-15)
    return [(packer.compress(b"hello world") + packer.flush(zlib.Z_SYNC_FLUSH))[:-4] for _ in range(2)]


TAKEN_OVER = taken_over()  # the second one refers to the first
COMPRESSED_BAD = [
    ("a compressed continuation", frame(1, HELLO[:3], rsv=4, fin=False) + frame(0, HELLO[3:], rsv=4), 1002),
    ("a compressed ping", frame(9, b"p", rsv=4), 1002),
    ("another RSV bit", frame(1, HELLO, rsv=6), 1002),
    ("no deflate data", frame(1, b"\xff\xff\xff", rsv=4), 1007),
    ("data after the last block", frame(1, LAST + HELLO, rsv=4), 1007),
    ("over the limit", frame(2, compressed(b"x" * (LIMIT + 1))[:-4], rsv=4), 1009),
    ("a window that the server gave up", b"".join(frame(1, data, rsv=4) for data in TAKEN_OVER), 1007),
]


@pytest.mark.parametrize(("name", "data", "code"), COMPRESSED_BAD, ids=[row[0] for row in COMPRESSED_BAD])
def test_compressed_data_that_is_wrong_is_refused(name: str, data: bytes, code: int) -> None:
    parser, _ = parse(data, deflate=Deflate(server_no_context_takeover=True))
    assert parser.failure is not None
    assert parser.failure.code == code


@given(
    st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING]), st.binary(max_size=100)), max_size=8), st.integers(1, 9)
)
def test_any_run_of_frames_parses_the_same_in_any_pieces(messages: list[tuple[int, bytes]], step: int) -> None:
    data = b"".join(frame(opcode, payload) for opcode, payload in messages)
    assert parse(data, step=step)[1] == messages


@given(st.binary(max_size=300), st.integers(1, 50))
def test_garbage_never_raises_and_never_holds_more_than_it_was_given(data: bytes, step: int) -> None:
    _, items = parse(data, step=step)
    assert sum(len(payload) for _, payload in items) <= len(data)


@given(st.sampled_from([TEXT, BINARY, PING, CLOSE]), st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
def test_what_we_encode_unmasks_to_what_it_was(opcode: int, payload: bytes, mask: bytes) -> None:
    data = encode_frame(opcode, payload, mask)
    assert data[0] == 0x80 | opcode
    assert data[1] & 0x80, "a client's frames are masked"
    length = data[1] & 0x7F
    at = 2 if length < 126 else 4 if length == 126 else 10
    assert data[at : at + 4] == mask
    body = data[at + 4 :]
    assert bytes(byte ^ mask[n % 4] for n, byte in enumerate(body[:50])) == payload[:50]
    assert len(body) == len(payload)


def test_codes_that_only_report_are_never_put_on_the_wire() -> None:
    for code in (None, 1005, 1006):
        assert close_payload(code) == b""
    assert parse_close(b"") == (1005, "")


@pytest.mark.parametrize("fragmented", [False, True])
def test_a_message_in_tiny_pieces_takes_little_more_memory_than_itself(fragmented: bool) -> None:
    size = 128 * 1024
    if fragmented:
        pieces = [frame(2, b"", fin=False), *[frame(0, bytes((n & 255, 1)), fin=False) for n in range(size // 2)]]
        pieces.append(frame(0, b""))
    else:
        whole = frame(2, os.urandom(size))
        pieces = [whole[at : at + 2] for at in range(0, len(whole), 2)]
    parser = FrameParser(size)
    tracemalloc.start()
    try:
        items = [item for piece in pieces for item in parser.feed(piece)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [len(payload) for _, payload in items] == [size]
    assert peak < 4 * size
