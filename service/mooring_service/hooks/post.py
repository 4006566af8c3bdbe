"""One POST after the other on one socket, dialled as connections are: policy on each address, proxies, TLS.

Redirects are not followed. Of an answer the status and a few headers are kept; of its body 4 KiB are read and nothing is kept.
"""

from __future__ import annotations

import asyncio
import logging
import time
from urllib.parse import urlsplit

import msgspec

from mooring.checks import HeaderValue
from mooring.deadline import within
from mooring.wire.answer import AnswerReader, InvalidAnswer, http_date_s, one_line, retry_after_s
from mooring.wire.connect import Connector
from mooring.wire.exchange import Exchange
from mooring.wire.failure import DialFailed, reason_of
from mooring.wire.route import Way
from mooring.wire.target import Target, parse_target
from mooring_service.hook_options import HookRequest
from mooring_service.hooks.state import Answer, Reason

MAX_BODY_BYTES = 4_096
BODY_WAIT_S = 0.25  # a body that takes longer costs its socket
IDLE_S = 60.0  # a name may have moved meanwhile
MAX_PLACE_CHARS = 100

log = logging.getLogger("mooring.hooks")


class Request(msgspec.Struct, frozen=True):
    """What is posted. `headers` are ours; those of the hook's definition follow them."""

    headers: list[tuple[str, str]]
    body: bytes


class _Closed(Exception):
    """The receiver closed before the first byte of an answer."""


class Poster:
    """The socket of one hook.

    Args:
        connector: Shared by all hooks.
    """

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._loop = asyncio.get_running_loop()
        self._exchange: Exchange | None = None
        self._hook: HookRequest | None = None  # for which it was dialled
        self._used_at = 0.0

    def close(self) -> None:
        """Give the socket up."""
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    def expire(self) -> None:
        """Post no further on the socket that there is."""
        self._hook = None

    async def post(self, hook: HookRequest, request: Request) -> Answer:
        """Post once, within the hook's ``timeout``; say how it ended. Cancelled, it cuts what is under way."""
        place = hook.host
        try:
            async with within(hook.timeout):
                reader = await self._post(hook, request, parse_target(hook.url))
            await self._finish(reader)
            return _answer(reader, place)
        except TimeoutError:
            return self._failed("timeout", f"{place} did not answer within {hook.timeout:g} s")
        except DialFailed as exc:
            reason: Reason = "policy" if exc.policy else "timeout" if exc.timed_out else "network"
            return self._failed(reason, ": ".join(entry.message for entry in exc.errors))
        except InvalidAnswer as exc:
            return self._failed("network", f"{place} did not answer with valid HTTP: {exc}")
        except _Closed:
            return self._failed("network", f"{place} closed the connection without an answer")
        except (OSError, ValueError) as exc:
            return self._failed("network", f"the connection to {place} was lost: {reason_of(exc)}")
        except asyncio.CancelledError:
            self.close()
            raise
        # The top of an attempt: a hook must not stop for what is ours.
        except Exception as exc:
            log.exception("a post to %s ended unexpectedly", place)
            return self._failed("network", f"no post to {place} could be made: {type(exc).__name__}")

    def _failed(self, reason: Reason, error: str) -> Answer:
        self.close()
        return Answer(reason=reason, error=error)

    async def _post(self, hook: HookRequest, request: Request, target: Target) -> AnswerReader:
        data = _head(target, request.headers, hook.headers, len(request.body))
        exchange = self._idle(hook)
        if exchange is not None:
            try:
                return await self._exchanged(exchange, data, request.body)
            except _Closed:
                self.close()  # closed while it was idle: that says nothing about the receiver
        way = Way(tls=hook.tls, proxy=hook.proxy, timeout_s=hook.timeout)
        self._exchange = exchange = await self._connector.connect(self._connector.plan(target, way))
        self._hook = hook
        return await self._exchanged(exchange, data, request.body)

    def _idle(self, hook: HookRequest) -> Exchange | None:
        """Return the socket of the last post, if another one may follow."""
        exchange = self._exchange
        fresh = self._loop.time() - self._used_at < IDLE_S
        if exchange is None or not fresh or not exchange.is_quiet or self._hook is not hook:
            self.close()
            return None
        return exchange

    async def _exchanged(self, exchange: Exchange, head: bytes, body: bytes) -> AnswerReader:
        exchange.transport.writelines([head, body])
        reader = AnswerReader(self._loop, max_body_bytes=MAX_BODY_BYTES)
        heard = False
        while True:
            try:
                data = await exchange.receive()
            except OSError:
                if not heard:
                    raise _Closed from None
                raise
            if not data:
                raise _Closed if not heard else InvalidAnswer("it ended within its head")
            heard = True
            if reader.feed_head(data):
                return reader

    async def _finish(self, reader: AnswerReader) -> None:
        """Read the body away, if it is short and there; else the socket goes."""
        exchange = self._exchange
        if exchange is not None and reader.status != 101 and not reader.should_close:
            reader.feed_body(reader.rest)
            if reader.wants_body:
                await _read_away(reader, exchange)
            if reader.is_whole and exchange.is_quiet:
                exchange.listen()
                self._used_at = self._loop.time()
                return
        self.close()


async def _read_away(reader: AnswerReader, exchange: Exchange) -> None:
    try:
        async with within(BODY_WAIT_S):
            while reader.wants_body and (data := await exchange.receive()):
                reader.feed_body(data)
    except OSError:  # the time is over (TimeoutError is one), or the connection
        pass


def _head(target: Target, ours: list[tuple[str, str]], theirs: dict[str, HeaderValue], size: int) -> bytes:
    lines = [f"POST {target.path} HTTP/1.1", f"host: {target.host_header}", f"content-length: {size}"]
    lines += [f"{name}: {value}" for name, value in ours]
    for name, values in theirs.items():
        lines += [f"{name}: {value}" for value in ([values] if isinstance(values, str) else values)]
    return "\r\n".join([*lines, "", ""]).encode()


def _answer(reader: AnswerReader, place: str) -> Answer:
    status, headers = reader.status, reader.headers
    error = "" if 200 <= status < 300 else f"{place} answered with status {status}"
    if 300 <= status < 400:
        host = _host_of(headers.get("Location", ""))
        error += f", a redirect{f' to {host}' if host else ''}; redirects are not followed: change the url"
    now_s, date_s = time.time(), http_date_s(headers.get("Date", ""))
    return Answer(
        status=status,
        delivery=headers.get("webhook-delivery", "").strip().lower()[:40],
        retry_after_s=None if 200 <= status < 300 else retry_after_s(headers, now_s),
        error=error,
        skew_s=None if date_s is None else date_s - now_s,
    )


def _host_of(url: str) -> str:
    """Return the host that a redirect names; its path and query are nobody's business."""
    try:
        return one_line(urlsplit(url).hostname or "")[:MAX_PLACE_CHARS]
    except ValueError:
        return ""
