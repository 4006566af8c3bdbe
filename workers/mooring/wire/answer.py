"""The head of an HTTP answer, and the beginning of its body, by aiohttp's parser. No I/O, no clock."""

from __future__ import annotations

import asyncio
import calendar
import contextlib
import email.utils
import re
from collections.abc import Mapping
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDictProxy

MAX_HEAD_BYTES = 64 * 1024  # of all heads up to the final one; nginx, haproxy and others stop at 32 KiB and less
MAX_HEADERS = 256
MAX_TEXT_CHARS = 200
MAX_BODY_BYTES = 4 * MAX_TEXT_CHARS + 1024  # as UTF-8 at its longest, in small chunks
_MAX_RETRY_AFTER_S = 1e9

_HEAD_END = re.compile(rb"\n\r?\n")
_TEXT_TYPES = re.compile(r"(text/|application/([a-z0-9.+-]*\+)?(json|xml)\b)", re.IGNORECASE)


class InvalidAnswer(Exception):
    """The bytes are no HTTP answer, or one without end."""


class AnswerReader:
    """Reads one answer, piece by piece; interim ones (1xx but 101) are passed over.

    Attributes:
        status, reason, headers: Of the answer, once `feed_head` has returned True.
        rest: The bytes behind its head: the first of another protocol, or of the body.
        should_close: No other answer can follow on this connection.
    """

    status = 0
    reason = ""
    headers: CIMultiDictProxy[str]
    rest = b""
    should_close = True

    def __init__(self, loop: asyncio.AbstractEventLoop, *, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self._max_body_bytes = max_body_bytes
        self._parser: Any = HttpResponseParser(
            BaseProtocol(loop),  # it takes no part; a stream must be able to ask it to pause
            loop,
            2**16,
            max_line_size=MAX_HEAD_BYTES,
            max_field_size=MAX_HEAD_BYTES,
            max_headers=MAX_HEADERS,
            read_until_eof=True,
            auto_decompress=False,
        )
        self._received = b""
        self._parsed = 0
        self._searched = 0
        self._body: Any = None
        self._body_bytes = 0

    def feed_head(self, data: bytes) -> bool:
        """Take bytes; say whether the head is complete.

        Raises:
            InvalidAnswer: If they are not HTTP, or the head is too long.
        """
        self._received += data
        while True:
            # Only up to the end of a head, so that what follows it can spoil nothing.
            found = _HEAD_END.search(self._received, self._searched)
            end = found.end() if found else len(self._received)
            if end > MAX_HEAD_BYTES:
                raise InvalidAnswer(f"its head is longer than {MAX_HEAD_BYTES // 1024} KiB")
            try:
                messages, _, _ = self._parser.feed_data(self._received[self._parsed : end])
            except HttpProcessingError as exc:
                raise InvalidAnswer("not valid HTTP") from exc
            self._parsed = end
            if found is None:
                self._searched = max(self._searched, end - 2)
                return False
            self._searched = end
            for message, body in messages:
                if message.code == 101 or not 100 <= message.code <= 199:
                    self.status, self.reason, self.headers = message.code, message.reason, message.headers
                    self.rest, self._received = self._received[end:], b""
                    self._body = body
                    self.should_close = message.should_close
                    return True

    @property
    def is_text(self) -> bool:
        """Whether its body is for people; one without a type may be."""
        kind = self.headers.get("Content-Type", "text/plain")
        return "Content-Encoding" not in self.headers and _TEXT_TYPES.match(kind) is not None

    @property
    def wants_body(self) -> bool:
        """Whether there is more of the body that should be fed."""
        return not self._body.is_eof() and self._body_bytes < self._max_body_bytes

    @property
    def is_whole(self) -> bool:
        """Whether all of its body was fed."""
        return bool(self._body.is_eof())

    def feed_body(self, data: bytes) -> None:
        """Take bytes of the body."""
        data = data[: self._max_body_bytes - self._body_bytes]
        self._body_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except HttpProcessingError:
            self._body_bytes = self._max_body_bytes  # what came before it stands

    def feed_end(self) -> None:
        """The server has closed: a body without a length ends so, any other one is cut off."""
        with contextlib.suppress(HttpProcessingError):
            self._parser.feed_eof()

    def body(self) -> bytes:
        """Return what was fed of the body, as bytes."""
        return bytes(self._body.read_nowait(-1))

    def body_text(self) -> str:
        """Return what was fed of the body, on one line; it may be cut off anywhere."""
        data: bytes = self._body.read_nowait(-1)
        found = re.search(r"charset=\"?(iso-8859-1|latin1|windows-1252)", self.headers.get("Content-Type", ""), re.I)
        return one_line(data.decode("cp1252" if found else "utf-8", "replace"))


def one_line(text: str) -> str:
    """Return `text` with each run of control characters and white space replaced by one space."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def retry_after_s(headers: Mapping[str, str], now_s: float) -> float | None:
    """Return what ``Retry-After`` (RFC 9110 section 10.2.3) asks for, or None if it is not there or means nothing.

    Args:
        now_s: The time of day, in seconds since 1970.
    """
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _MAX_RETRY_AFTER_S)
    at_s = http_date_s(text)
    return None if at_s is None else min(max(0.0, at_s - now_s), _MAX_RETRY_AFTER_S)


def http_date_s(text: str) -> float | None:
    """Return the seconds since 1970 of an HTTP date (RFC 9110 section 5.6.7), or None where it is none.

    The oldest of its forms has no zone; it is UTC all the same.
    """
    try:
        return float(calendar.timegm(email.utils.parsedate_to_datetime(text).utctimetuple()))
    except (ValueError, OverflowError):  # the latter for a number that no date can hold
        return None
