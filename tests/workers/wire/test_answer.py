"""The head of an HTTP answer, however it is cut into pieces, and what stands in it."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from mooring.wire.answer import AnswerReader, InvalidAnswer, retry_after_s


class Idle:
    """A loop: aiohttp's parser wants one, and never runs it."""

    loop: asyncio.AbstractEventLoop


@pytest.fixture(scope="module", autouse=True)
def _idle() -> Iterator[None]:
    Idle.loop = asyncio.new_event_loop()
    yield
    Idle.loop.close()


def read(pieces: list[bytes]) -> tuple[int, str, list[tuple[str, str]], bytes] | None:
    """Return status, reason, headers and what is behind the head; None: there is more to come."""
    reader = AnswerReader(Idle.loop)
    for at, piece in enumerate(pieces):
        if reader.feed_head(piece):
            return reader.status, reader.reason, list(reader.headers.items()), reader.rest + b"".join(pieces[at + 1 :])
    return None


SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX: \xc3\xbc\r\n\r\n"
ANSWERS = [
    SWITCH,
    SWITCH + b"\x81\x02hi\n\n\r\n\r\n\x88\x00",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + SWITCH + b"\x81\x00",
    b"HTTP/1.1 401 Unauthorized\nContent-Length: 2\n\nno and more than was promised",
    b"HTTP/1.0 503 \r\n\r\nHTTP/1.1 101 not a second answer\r\n\r\n",
    b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
]


@given(st.sampled_from(ANSWERS), st.lists(st.integers(0, 300), max_size=10))
def test_how_an_answer_is_cut_changes_nothing(data: bytes, places: list[int]) -> None:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    whole = read([data])
    assert whole is not None
    assert read([data[begin:end] for begin, end in itertools.pairwise(edges)]) == whole
    assert data.endswith(whole[3])


def test_byte_by_byte_is_as_good_as_at_once() -> None:
    for data in ANSWERS:
        assert read([bytes((byte,)) for byte in data]) == read([data])


@given(st.binary(max_size=300))
def test_garbage_is_no_answer_or_waits_for_more(data: bytes) -> None:
    try:
        assert read([data]) is None or b"HTTP/" in data
    except InvalidAnswer:
        pass


NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 0),
        ("9" * 5_000, 1e9),
        ("Tue, 14 Nov 2023 22:14:20 GMT", 60),
        ("Tuesday, 14-Nov-23 22:14:20 GMT", 60),
        ("Tue, 14 Nov 2023 22:00:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 1e9),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        (f"Fri, 31 Dec {'9' * 20} 23:59:59 GMT", None),
        (f"Fri, 31 Dec 2027 23:59:59 +{'9' * 20}", None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("١٢", None),
        ("Tue, 14 Nov 2023", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str, seconds: float | None) -> None:
    assert retry_after_s(CIMultiDict({"retry-after": text}), NOW) == seconds
    assert retry_after_s(CIMultiDict(), NOW) is None


@pytest.mark.parametrize(
    "text", ["Tue, 14 Nov 2023 22:14:20 GMT", "Tue Nov 14 22:14:20 2023", "Tue, 14 Nov 2023 22:14:20 -0000"]
)
def test_a_date_is_utc_wherever_we_are(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "EST5")
        time.tzset()
        seconds = retry_after_s(CIMultiDict({"retry-after": text}), NOW)
    time.tzset()
    assert seconds == 60


@given(st.text())
def test_any_retry_after_is_read_or_not(text: str) -> None:
    seconds = retry_after_s({"Retry-After": text}, NOW)
    assert seconds is None or seconds >= 0
