"""What each attempt of one id begins with: fresh values (``renew``, secrets), and URL and headers filled with them. On the I/O loop.

What was remembered and renewed lives as long as the id, and is shown nowhere.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mooring import json_text
from mooring.checks import check_url
from mooring.connection.asked import HANDLER_RENEW_S
from mooring.connection.host import CodeFailed, Host
from mooring.connection.kept_rules import Compiled, secrets_of_http
from mooring.connection.pointer import MISSING
from mooring.connection.recipe import MAX_REMEMBERED_BYTES, MAX_RENEW_ANSWER_BYTES, Renew, RenewHttp
from mooring.connection.recorded import RecordedConnection
from mooring.connection.template import Unfilled, Values, is_name
from mooring.deadline import within
from mooring.errors import ErrCode, ErrorEntry
from mooring.name_errors import SecretNotAllowed
from mooring.options import ConnectionOptions
from mooring.wire.dial import DialFailed
from mooring.wire.failure import failed, refused_by_policy
from mooring.wire.http_request import HttpRequest
from mooring.wire.secret_table import Place, places_of

MAX_RENEWED = 16  # values, as of `renew.http`


class Attempt:
    """What one id knows for its next attempt.

    Attributes:
        compiled: What it is asked for.
        memory: What was remembered, by name.
        renewed: What ``renew`` has given last.
        secrets: By name, as they were read for this attempt.
        next_url: The peer has named another URL, for the next attempt alone.
        url: Of the last attempt; that of the options before it: by its host the limiter knows it.
    """

    __slots__ = ("_connection", "_host", "_renewed_at", "compiled", "memory", "next_url", "renewed", "secrets", "url")

    def __init__(self, host: Host, connection: RecordedConnection, compiled: Compiled) -> None:
        self._host = host
        self._connection = connection
        self.compiled = compiled
        self.memory: dict[str, Any] = {}
        self.renewed: dict[str, Any] = {}
        self._renewed_at = -math.inf
        self.secrets: dict[str, str] = {}
        self.next_url: str | None = None
        self.url = connection.options.url

    @property
    def _renew(self) -> Renew | None:
        recipe = self.compiled.recipe
        return None if recipe is None else recipe.renew

    @property
    def renews(self) -> bool:
        """Something must be fetched before an attempt."""
        return self._renew is not None or self._connection.options.handler_renews

    @property
    def renewable(self) -> bool:
        """After a refusal something may give another credential."""
        return self.compiled.renewable or self.renews

    async def prepare(self, socket: int, attempt: int, *, fresh: bool) -> ConnectionOptions:
        """Return the options of one attempt, with the texts that go on the wire.

        Args:
            socket: The number that its socket will have.
            attempt: How many dials there were since the loss, this one included.
            fresh: What was renewed before was refused: renew it whatever its age is.

        Raises:
            DialFailed: If a value cannot be had (113), or may not go there (106).
        """
        compiled, options = self.compiled, self._connection.options
        self.secrets = {}
        if self.renews:
            await self._fetch(attempt, fresh=fresh)
        own = compiled.own_secrets
        self.secrets = self._read(own)
        values = Values(names={**self.renewed, **self.memory}, secrets=self.secrets, socket=socket)
        url, self.next_url = self.next_url, None
        if url is None:
            filled = options.url if compiled.url is None else compiled.url.fill(values)
            if isinstance(filled, Unfilled):
                raise failed(ErrCode.RENEW_FAILED, f"the url cannot be filled: {filled}")
            url = filled
        wrong = check_url(url)
        if wrong:
            raise failed(ErrCode.RENEW_FAILED, f"the url is not valid: {wrong[0].detail}")
        self.url = url
        headers = []
        for name, template in compiled.headers:
            text = template.fill(values)
            if isinstance(text, Unfilled):
                raise failed(ErrCode.RENEW_FAILED, f"the header {name} cannot be filled: {text}")
            headers.append((name, text))
        self._check_bound(own, places_of(url, options.addresses, options.proxy))
        return msgspec.structs.replace(options, url=url, headers=headers)

    def _read(self, names: list[str]) -> dict[str, str]:
        """Return the values of secrets; whether they may go where it goes is known once that is filled in."""
        return self._host.dialler.secrets.values(names, [], declared=True) if names else {}

    def _check_bound(self, names: list[str], places: list[Place]) -> None:
        if self._connection.created.declared:
            return
        try:
            for name in names:
                self._host.dialler.secrets.check_bound(name, places)
        except SecretNotAllowed as exc:
            raise refused_by_policy(str(exc)) from None

    async def _fetch(self, attempt: int, *, fresh: bool) -> None:
        renew = self._renew
        timeout_s = HANDLER_RENEW_S if renew is None else renew.timeout_s
        now = self._host.loop.time()
        if not fresh and renew is not None and now < self._renewed_at + renew.reuse_for_s:
            return
        try:
            async with within(timeout_s):
                found = await self._values(renew, attempt)
        except TimeoutError:
            raise failed(ErrCode.RENEW_FAILED, f"renew did not end within {timeout_s:g} s") from None
        except CodeFailed as exc:
            raise failed(ErrCode.RENEW_FAILED, f"renew has failed: {exc}") from None
        self.renewed = _checked(found)
        self._renewed_at = now

    async def _values(self, renew: Renew | None, attempt: int) -> Any:
        handler: Any = self._connection.handler
        if self._connection.options.handler_renews:
            # Looked up there, too: an attribute may be a property, which is user code.
            return await self._host.run_code(self._connection, "renew", lambda: handler.renew(attempt), [])
        assert renew is not None, "who renews has one of the two"
        if renew.function is not None:
            return await self._host.run_code(self._connection, "renew", renew.function, renew.params)
        assert renew.http is not None, "the compiler has seen to it"
        return await self._ask(renew.http)

    async def _ask(self, http: RenewHttp) -> dict[str, Any]:
        """Return the values that the HTTP request brings."""
        secrets = secrets_of_http(http)
        dialler = self._host.dialler
        values = Values(names={**self.renewed, **self.memory}, secrets=self._read(secrets))
        url, body = http.url.fill(values), None if http.body is None else http.body.fill(values)
        headers = [(name, template.fill(values)) for name, template in http.headers]
        for what, filled in (("url", url), ("body", body), *((f"header {name}", text) for name, text in headers)):
            if isinstance(filled, Unfilled):
                raise failed(ErrCode.RENEW_FAILED, f"the {what} of renew.http cannot be filled: {filled}")
        assert isinstance(url, str) and not isinstance(body, Unfilled), "looked at above"
        if not url.startswith(("http://", "https://")) or check_url(f"ws{url[4:]}"):
            raise failed(ErrCode.RENEW_FAILED, "the url of renew.http is not valid")
        self._check_bound(secrets, places_of(url, (), self._connection.options.proxy))
        request = HttpRequest(http.method, url, [(name, str(text)) for name, text in headers], body)
        try:
            answer = await dialler.ask(request, self._connection.options, MAX_RENEW_ANSWER_BYTES)
        except DialFailed as exc:
            if exc.policy or exc.code == ErrCode.RENEW_FAILED:
                raise
            raise DialFailed([ErrorEntry(ErrCode.RENEW_FAILED, "renew.http could not be asked"), *exc.errors]) from None
        if not 200 <= answer.status <= 299:
            raise DialFailed(
                failed(ErrCode.RENEW_FAILED, f"renew.http was answered with status {answer.status}").errors,
                retry_after_s=answer.retry_after_s,
            )
        try:
            found = msgspec.json.decode(answer.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise failed(ErrCode.RENEW_FAILED, "the answer to renew.http is not JSON") from None
        brought = {name: pointer.get(found) for name, pointer in http.values}
        missing = [name for name, value in brought.items() if value is MISSING or value is None]
        if missing:
            raise failed(ErrCode.RENEW_FAILED, f"the answer to renew.http has no {', '.join(missing)}")
        return brought


def _checked(found: Any) -> dict[str, Any]:
    """Return what ``renew`` has given, if it is that."""
    if not isinstance(found, dict) or not all(isinstance(name, str) and is_name(name) for name in found):
        raise failed(ErrCode.RENEW_FAILED, "renew must return an object of names and values")
    try:
        too_much = len(found) > MAX_RENEWED or any(
            len(json_text.encode(value)) > MAX_REMEMBERED_BYTES for value in found.values()
        )
    except (TypeError, ValueError, RecursionError):
        raise failed(ErrCode.RENEW_FAILED, "renew returned what is no JSON value") from None
    if too_much:
        raise failed(
            ErrCode.RENEW_FAILED,
            f"renew returned more than {MAX_RENEWED} values, or one above {MAX_REMEMBERED_BYTES} bytes",
        )
    return found
