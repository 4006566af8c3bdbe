"""The dial: from checked options to an open, upgraded transport, or to 4D's list of errors.

`connect.py` makes the connection, `upgrade.py` knows RFC 6455 section 4; this module puts them under one deadline and says
what went wrong. One `dial` is one dial (per address tried): nothing is repeated, no redirect is followed. Read `target`,
`route`, `connect`, `upgrade`, then this.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import time

import msgspec

from mooring.deadline import within
from mooring.dial_options import DialSettings, TlsRequest
from mooring.errors import ErrCode, ErrorEntry
from mooring.options import ConnectionOptions
from mooring.wire.answer import MAX_TEXT_CHARS, AnswerReader, InvalidAnswer, one_line, retry_after_s
from mooring.wire.connect import Connector
from mooring.wire.egress import EgressPolicy
from mooring.wire.exchange import Exchange
from mooring.wire.failure import DialFailed, failed
from mooring.wire.frames import Deflate
from mooring.wire.http_request import HttpAnswer, HttpRequest, converse
from mooring.wire.route import Way
from mooring.wire.secret_table import Secrets
from mooring.wire.target import Target, parse_target
from mooring.wire.upgrade import InvalidHandshake, check_answer, request_head, without_secrets

__all__ = ["DialFailed", "Dialled", "Dialler"]

BODY_WAIT_S = 0.5  # for the words of a server that refuses us: they only explain
MAX_REASON_CHARS = 80

log = logging.getLogger("mooring.dial")


class Dialled(msgspec.Struct, frozen=True):
    """An upgraded connection. Its transport does not read: `tail` came with the 101, what follows is in the socket."""

    transport: asyncio.Transport
    tail: bytes
    protocol: str | None
    deflate: Deflate | None


class Dialler:
    """Dials for one worker. Must be made, used and closed on the I/O loop.

    Args:
        settings: Proxies, secrets and the like.

    Attributes:
        secrets: What stands for ``${secret:NAME}``, as of now.

    Raises:
        ValueError: If the settings are not valid.
    """

    def __init__(
        self, policy: EgressPolicy, *, allow_insecure_tls: bool = False, settings: DialSettings | None = None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._settings = settings or DialSettings()
        self.secrets = Secrets(self._settings.secrets)
        self._connector = Connector(policy, self._settings, allow_insecure_tls=allow_insecure_tls)

    def set_policy(
        self, policy: EgressPolicy, *, allow_insecure_tls: bool, settings: DialSettings | None = None
    ) -> None:
        """Decide by another policy from now on, and by other settings if there are any.

        Raises:
            ValueError: If the settings are not valid.
        """
        self._settings = settings or self._settings
        self.secrets = Secrets(self._settings.secrets)
        self._connector.configure(policy, self._settings, allow_insecure_tls=allow_insecure_tls)

    async def close(self) -> None:
        """Release everything."""
        self._connector.close()

    async def dial(self, options: ConnectionOptions) -> Dialled:
        """Dial once (per address tried) and upgrade, within ``connectTimeout``.

        Raises:
            DialFailed: With 4D's list of errors, outermost first. No text of it holds the URL's query or a header.
        """
        try:
            target = parse_target(options.url)
        except ValueError as exc:
            raise failed(ErrCode.NAME_NOT_RESOLVED, str(exc)) from None
        place = target.place
        try:
            plan = self._connector.plan(target, _way(options))
            place = plan.place
            async with within(options.connect_timeout_s) as deadline:
                exchange = await self._connector.connect(plan)
                try:
                    key, answer = await self._ask_upgrade(exchange, target, options, place)
                except BaseException:
                    exchange.abort()
                    raise
            try:
                return await self._upgraded(exchange, key, answer, options, place, deadline)
            except BaseException:
                exchange.abort()
                raise
        except DialFailed:
            raise
        except TimeoutError:
            message = f"{place} did not complete the handshake within {options.connect_timeout_s:g} s"
            raise DialFailed([ErrorEntry(ErrCode.CONNECT_TIMEOUT, message)], timed_out=True) from None
        except Exception as exc:
            # The top of a dial's task: whatever it is, the connection must not stay Connecting for ever.
            log.exception("a dial to %s ended unexpectedly", place)
            message = f"no connection to {place} could be made"
            raise failed(ErrCode.UNREACHABLE, message, type(exc).__name__) from exc

    async def ask(self, request: HttpRequest, options: ConnectionOptions, max_bytes: int) -> HttpAnswer:
        """Send one HTTP request, the way that `options` take, under the egress policy; the deadline is the caller's.

        Raises:
            DialFailed: If there is no answer of at most `max_bytes`.
        """
        try:
            target = parse_target(request.url)
            # The addresses, and our certificate, are for the WebSocket's server: this is another one.
            tls = TlsRequest(ca_file=options.tls.ca_file, verify=options.tls.verify)
            way = msgspec.structs.replace(_way(options), addresses=[], tls=tls)
            plan = self._connector.plan(target, way)
            exchange = await self._connector.connect(plan)
            try:
                return await converse(exchange, request, target, plan.place, max_bytes)
            finally:
                exchange.abort()
        except ValueError as exc:
            raise failed(ErrCode.RENEW_FAILED, str(exc)) from None

    async def _ask_upgrade(
        self, exchange: Exchange, target: Target, options: ConnectionOptions, place: str
    ) -> tuple[bytes, AnswerReader]:
        """Return the key that was sent, and the answer as soon as its head is there."""
        key = base64.b64encode(os.urandom(16))
        exchange.transport.write(request_head(target, options, key))
        answer = AnswerReader(self._loop)
        try:
            while not answer.feed_head(await _next(exchange, place)):
                pass
        except InvalidAnswer as exc:
            message = f"{place} did not answer the handshake with valid HTTP"
            raise failed(ErrCode.HANDSHAKE_INVALID, message, str(exc)) from None
        return key, answer

    async def _upgraded(
        self,
        exchange: Exchange,
        key: bytes,
        answer: AnswerReader,
        options: ConnectionOptions,
        place: str,
        deadline: float,
    ) -> Dialled:
        """Return what the answer makes of the connection; outside of the deadline, which nobody has missed who has answered."""
        if answer.status != 101:
            until = min(self._loop.time() + BODY_WAIT_S, deadline)
            raise await _refused(exchange, answer, options, place, until)
        try:
            negotiated = check_answer(answer.headers, key, options)
        except InvalidHandshake as exc:
            raise failed(ErrCode.HANDSHAKE_INVALID, f"{place} broke the handshake: {exc}") from None
        tail = answer.rest + exchange.take_rest()
        return Dialled(exchange.transport, tail, negotiated.protocol, negotiated.deflate)


async def _refused(
    exchange: Exchange, answer: AnswerReader, options: ConnectionOptions, place: str, until: float
) -> DialFailed:
    """Return what an answer other than 101 means, with the beginning of its text as far as it has come by `until`."""
    status = answer.status
    if 300 <= status < 400:
        # Its body names the place, query and all.
        message = f"{place} answered the handshake with a redirect (status {status})"
        return DialFailed([ErrorEntry(ErrCode.REDIRECT_REFUSED, message)], status=status)
    if answer.is_text:
        answer.feed_body(answer.rest)
        try:
            async with within(until - asyncio.get_running_loop().time()):
                while answer.wants_body and (data := await exchange.receive()):
                    answer.feed_body(data)
        except OSError:  # the time is over (TimeoutError is one), or the connection
            pass
    reason = without_secrets(one_line(answer.reason), options)[:MAX_REASON_CHARS]
    text = without_secrets(answer.body_text(), options)[:MAX_TEXT_CHARS]
    message = f"{place} answered the handshake with status {status} {reason}".rstrip()
    return DialFailed(
        [ErrorEntry(ErrCode.HANDSHAKE_STATUS, f"{message}: {text}" if text else message)],
        status=status,
        retry_after_s=retry_after_s(answer.headers, time.time()),
    )


def _way(options: ConnectionOptions) -> Way:
    return Way(
        tls=options.tls,
        proxy=options.proxy,
        family=options.family,
        addresses=options.addresses,
        local_address=options.local_address,
        keepalive=not options.ping_interval_s,
        timeout_s=options.connect_timeout_s,
    )


async def _next(exchange: Exchange, place: str) -> bytes:
    """Return the next bytes of the handshake's answer."""
    try:
        data = await exchange.receive()
    except OSError:
        data = b""
    if not data:
        raise failed(ErrCode.HANDSHAKE_INVALID, f"{place} closed the connection during the handshake")
    return data
