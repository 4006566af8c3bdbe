"""One service at its address: the session, the token, one request and its answer. It knows no resource.

How requests travel is in `session` (aiohttp, imported with the first one) and in `plain` (the standard library; beside a loop `threaded`).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from mooring import json_text
from mooring_api.client import plain
from mooring_api.client.answers import ApiError, NotReached, ServiceAway

if TYPE_CHECKING:  # it imports aiohttp
    from mooring_api.client.session import Session

Result = TypeVar("Result")


def default_state_dir() -> Path:
    """Return where the state is kept unless told otherwise.

    Raises:
        ServiceAway: If that would be in a home directory, and there is none.
    """
    if "MOORING_STATE_DIR" in os.environ:
        return Path(os.environ["MOORING_STATE_DIR"])
    try:
        base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError:
        raise ServiceAway("there is no home directory to keep the state in: name one with --state-dir") from None
    return Path(base) / "mooring"


class Transport:
    """What every verb goes through; see `Client` for the arguments."""

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        token: str | None = None,
        *,
        state_dir: Path | None = None,
        ssl: Any = True,
        few: bool = False,
        loop: bool = True,
    ) -> None:
        self._few = few
        self._loop = loop
        self._addresses = _addresses(url or os.environ.get("MOORING_URL") or ())
        self._given_url = self._addresses[0] if self._addresses else None
        self._url = self._given_url
        if state_dir is None:
            try:
                state_dir = default_state_dir()
            except ServiceAway:
                if self._given_url is None:
                    raise
                state_dir = Path(os.devnull)  # nothing is in it: the token is given, or there is none
        self._given_token = token or os.environ.get("MOORING_TOKEN")
        self._state_dir = state_dir
        self._ssl = ssl
        self._session: Session | None = None
        self._entered = False
        self._token = ""
        self._locate()

    def _locate(self) -> None:
        """Find address and token; again after a restart, which may have changed the port."""
        if self._given_url is None:
            try:
                self._url = (self._state_dir / "address").read_text().strip()
            except PermissionError:
                raise ServiceAway(
                    f"{self._state_dir} may not be read by this user: do this as the one whose service it is, or name the service "
                    "with --url, and its token in $MOORING_TOKEN"
                ) from None
            except OSError:
                raise ServiceAway(
                    f"no service has its state in {self._state_dir}; start one with `mooring serve`, or name it with --url"
                ) from None
        if self._given_token is None:
            try:
                self._token = (self._state_dir / "token").read_text().strip()
            except OSError:
                self._token = ""
        else:
            self._token = self._given_token
        assert self._url is not None, "given or found"
        self._url = self._url.rstrip("/")
        if not self._url.startswith(("http://", "https://", "unix:")):
            raise ServiceAway(f"{self._url!r} is no address of a service: http://…, https://… or unix:PATH")

    def _locate_again(self, asked: str) -> None:
        """After a break: the service may be back elsewhere, for the next try; of several, the one behind `asked` is next.

        Others that have met with the same break have gone on to it already: it is not left again because of them.
        """
        if len(self._addresses) > 1:
            if self._url == asked:
                self._url = self._addresses[(self._addresses.index(asked) + 1) % len(self._addresses)]
            return
        with contextlib.suppress(ServiceAway):
            self._locate()

    async def __aenter__(self) -> Self:
        self._entered = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._url or ""

    @property
    def token(self) -> str:
        """What requests are made with; empty if there is none."""
        return self._token

    def _check_entered(self) -> None:
        if not self._entered:
            raise RuntimeError("the client is used outside of `async with Client(…) as client`")

    def _open_session(self) -> Session:
        self._check_entered()
        if self._session is None:
            from mooring_api.client.session import Session

            self._session = Session(self.url, self._ssl)
        return self._session

    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"}

    def _full(self, path: str) -> str:
        base = self.url
        return ("http://localhost" if base.startswith("unix:") else base) + path

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content_type: str | None = None,
        headers: dict[str, str] | None = None,
        params: dict[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Make one request; return status and body. Of several addresses each is tried that nobody answers at.

        What may have been done where its answer was lost is made again only if that does no harm: it changes nothing, is idempotent, or
        bears an Idempotency-Key.

        Raises:
            ApiError: If the answer is a problem.
            ServiceAway: If there is no answer.
        """
        all_headers = {**self._authorization(), **(headers or {})}
        if content_type is not None:
            all_headers["Content-Type"] = content_type
        harmless = (method != "POST" or "Idempotency-Key" in all_headers) and (body is None or isinstance(body, bytes))
        away: list[str] = []
        while True:
            asked = self.url
            try:
                status, data = await self._ask(method, path, body, all_headers, params)
                break
            except OSError as exc:
                away.append(f"no service answers at {asked}: {exc.strerror or exc}")
                self._locate_again(asked)
                if len(away) >= len(self._addresses) or not (harmless or isinstance(exc, NotReached)):
                    raise ServiceAway("; ".join(away)) from None
        if status >= 400:
            raise error_of(status, data)
        return status, data

    async def _ask(
        self, method: str, path: str, body: Any, headers: dict[str, str], params: dict[str, str] | None
    ) -> tuple[int, bytes]:
        if self._few and self._session is None and (body is None or isinstance(body, bytes)):
            self._check_entered()
            if not self._loop:
                return plain.request(
                    self.url, method, path, body=body, headers=headers, params=params, context=self._ssl
                )
            from mooring_api.client import threaded

            return await threaded.request(
                self.url, method, path, body=body, headers=headers, params=params, context=self._ssl
            )
        return await self._open_session().request(method, self._full(path), body=body, headers=headers, params=params)

    async def _json(self, kind: type[Result], method: str, path: str, **kwargs: Any) -> Result:
        _, data = await self.request(method, path, **kwargs)
        return decode(data, kind)


def keyed(idempotency_key: str | None, headers: dict[str, str] | None = None) -> dict[str, str]:
    """Return `headers` with an Idempotency-Key, if there is one: what is asked again under it is done once."""
    return {**(headers or {}), **({} if idempotency_key is None else {"Idempotency-Key": idempotency_key})}


def _addresses(url: str | Sequence[str]) -> list[str]:
    """Return the addresses that were given: one, or several of nodes of a cluster, in one text separated by commas.

    Raises:
        ServiceAway: If one of several is a socket file.
    """
    given = url.split(",") if isinstance(url, str) else url
    found = [one.strip().rstrip("/") for one in given if one.strip()]
    if len(found) > 1 and any(one.startswith("unix:") for one in found):
        raise ServiceAway("of several addresses none can be unix:PATH")
    return found


def decode(data: bytes, kind: type[Result]) -> Result:
    """Return an answer, or an event, as `kind`."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError:
        # Objects of events are passed on as they came: JSON, but not always what msgspec reads.
        return msgspec.convert(json_text.decode(data), kind)


def error_of(status: int, data: bytes) -> ApiError:
    """Return the problem that an answer is."""
    try:
        problem = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        problem = {"detail": data[:500].decode("utf-8", "replace")}
    return ApiError(status, problem)
