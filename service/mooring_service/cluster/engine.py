"""The link to the engine (NATS JetStream), over five verbs of nats-py: the only file of ours that imports it.

Owns the link and its redial, and turns whatever can go wrong with a request into one of five errors. Knows neither what stands in a message nor
what the stream is to look like. nats-py's own reconnecting is not used: it keeps what it was given, and we must know what became of each message.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats
import nats.errors

from mooring.deadline import within

CONNECT_TIMEOUT_S = 1.0
ASK_TIMEOUT_S = 2.0
READ_TIMEOUT_S = 0.5
REDIAL_S = (0.1, 1.0)  # the first pause, and the longest
LASTS_S = 5.0  # a link that ends earlier, a black hole too, is as good as none: the next url has its turn
PING_INTERVAL_S = 1  # two without an answer end the link: a black hole is known after 2 to 3 s
PENDING_BYTES = 16 << 20
CLOSE_TIMEOUT_S = 1.0

WRONG_LAST_SEQUENCE = 10071
IN_PROCESS = 10164
NO_MESSAGE = 10037
STREAM_NOT_FOUND = 10059
NOT_ENABLED = frozenset({10039, 10076})  # JetStream: for this account, on this server

log = logging.getLogger("mooring.cluster")


class EngineError(Exception):
    """What was asked of the engine has not been done, or nobody knows."""


class Down(EngineError):
    """There is no link, or nobody there who serves it: nothing was done."""


class Unknown(EngineError):
    """It was asked, and no answer came: it may have been done."""


class Conflict(EngineError):
    """The subject has another last message than the one that this was to follow: nothing was done."""


class Busy(EngineError):
    """A message of this subject is still in process: nothing was done, and a moment later it can be."""


class Refused(EngineError):
    """The engine says no, and asking again does not mend it. `code` is its own."""

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Where the engine is, and who we are there. `node` stands in the prefix of our inboxes, which the grants name."""

    urls: list[str]
    node: str
    user: str | None = None
    password: str | None = None
    credentials: str | None = None
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None

    def tls(self) -> ssl.SSLContext | None:
        """Return how TLS is spoken; None where no setting asks for it.

        Raises:
            OSError: If a file cannot be read, or is no certificate or key.
        """
        if self.tls_ca is None and self.tls_cert is None and not any(url.startswith("tls://") for url in self.urls):
            return None
        context = ssl.create_default_context(cafile=self.tls_ca)
        if self.tls_cert is not None:
            context.load_cert_chain(self.tls_cert, self.tls_key)
        return context


class Stored(msgspec.Struct, frozen=True):
    """A message of the log: its place, its subject, its bytes."""

    seq: int
    subject: str
    data: bytes


class Answer(msgspec.Struct, frozen=True):
    """What came in by a subscription. `headers` are of the engine where `Status` is among them."""

    subject: str
    reply: str
    headers: dict[str, str]
    data: bytes


class Link:
    """One connection to one server, until it ends; then it is thrown away."""

    def __init__(self) -> None:
        self.client = nats.NATS()
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.refusal = self.reason = ""

    async def dial(self, url: str, settings: EngineSettings, context: ssl.SSLContext | None) -> None:
        """Connect, or raise what nats-py, the resolver or the kernel says (`reason` says it better)."""

        async def ended() -> None:
            self.end()

        async def failed(exc: Exception) -> None:
            self.reason = str(exc) or type(exc).__name__
            if "permissions violation" in str(exc).lower():
                told = str(exc).removeprefix("nats: ")
                if not self.refusal:  # it is asked again each second
                    log.error("the engine at %s grants us less than we need: %s", url, told)
                self.refusal = f"it grants us less than we need (mooring cluster init --grants): {told}"

        connecting = self.client.connect(
            servers=[url],
            name=f"mooring {settings.node}",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # also of the first dial: without, it tries for two minutes
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,  # type: ignore[arg-type, unused-ignore]  # it hands it to wait_for
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            pending_size=PENDING_BYTES,
            inbox_prefix=f"_INBOX_{settings.node}",
            user=settings.user,
            password=settings.password,
            user_credentials=settings.credentials,
            tls=context,
            error_cb=failed,
            closed_cb=ended,
            disconnected_cb=ended,
        )
        async with within(2 * CONNECT_TIMEOUT_S):
            await connecting

    async def ended(self) -> None:
        """Wait until it has ended.

        nats-py does not tell each end: where the last write to a broken socket fails in its own closing, it is closed and calls nobody.
        """
        while not self.client.is_closed and not self.gone.done():
            await asyncio.wait({self.gone}, timeout=PING_INTERVAL_S)
        self.end()

    def end(self) -> None:
        """It has ended: whoever waits for an answer gets none."""
        if not self.gone.done():
            self.gone.set_result(None)

    async def close(self) -> None:
        """End it, within a second."""
        self.end()
        with contextlib.suppress(nats.errors.Error, OSError, asyncio.TimeoutError):
            async with within(CLOSE_TIMEOUT_S):
                await self.client.close()
        # Where its own closing has failed (see `ended`), the tasks of its subscriptions wait for ever.
        for subscription in self.client._subs.values():
            if subscription._wait_for_msgs_task is not None:
                subscription._wait_for_msgs_task.cancel()


class Engine:
    """The engine as a node sees it: one link at a time, dialled anew whenever it ends.

    Attributes:
        up: Set while there is a link.
        server: The version of the server that the link leads to; "" before the first link.
        url: Its address.
        failure: Why there is no link; "" while there is one.
    """

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self.link: Link | None = None
        self.up = asyncio.Event()
        self.server = ""
        self.url = ""
        self.failure = "not asked yet"
        self._served: dict[str, Callable[[Answer], Awaitable[None]]] = {}

    @property
    def refusal(self) -> str:
        """What the engine does not let us do; "" if it has said no such thing on this link."""
        return "" if self.link is None else self.link.refusal

    async def run(self) -> None:
        """Keep a link, the first url preferred. Ends by cancellation."""
        context = self.settings.tls()
        pause = REDIAL_S[0]
        while True:
            for url in self.settings.urls:
                if await self._one_link(url, context):  # it has lasted
                    pause = REDIAL_S[0]
                    break  # the first one is asked first again
            await asyncio.sleep(pause)
            pause = min(REDIAL_S[1], pause * 2)

    async def _one_link(self, url: str, context: ssl.SSLContext | None) -> bool:
        link, loop = Link(), asyncio.get_running_loop()
        try:
            try:
                await link.dial(url, self.settings, context)
                for subject, handler in list(self._served.items()):  # one may come meanwhile
                    await _subscribe(link, subject, handler)
            except (TimeoutError, nats.errors.Error, OSError, ValueError) as exc:
                self.failure = f"{url}: {link.reason or str(exc) or type(exc).__name__}"
                return False
            self.link, self.failure, self.url, begun = link, "", url, loop.time()
            self.server = str(link.client.connected_server_version or "").removeprefix("<nats server v").rstrip(">")
            self.up.set()
            log.info("linked to the engine at %s (%s)", url, self.server)
            await link.ended()
            self.failure = f"{url}: the link is gone"
            log.warning("the link to the engine at %s is gone", url)
            return loop.time() - begun >= LASTS_S
        finally:
            self.link = None
            self.up.clear()
            await link.close()

    async def drop(self) -> None:
        """End the present link; the next one is dialled."""
        if self.link is not None:
            await self.link.close()

    async def ask(
        self, subject: str, data: bytes = b"", headers: dict[str, str] | None = None, timeout_s: float = ASK_TIMEOUT_S
    ) -> bytes:
        """Send a request and return its answer.

        Raises:
            Down: If there is no link, or nobody listens to `subject`.
            Unknown: If no answer came in time, or the link ended first.
            Refused: If it can never be sent.
        """
        try:
            answer = await self._on_link(
                lambda client: client.request(subject, data, timeout=timeout_s, headers=headers)
            )
        except nats.errors.NoRespondersError:
            raise Down(f"nobody answers on {subject}") from None
        except nats.errors.MaxPayloadError:
            raise Refused(f"a message of {len(data)} bytes is larger than the engine takes") from None
        except (TimeoutError, nats.errors.Error, OSError) as exc:
            raise Unknown(str(exc) or "no answer in time") from None
        return bytes(answer.data)

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send without an answer.

        Raises:
            Down: If there is no link.
            Unknown: If the link ended meanwhile.
        """
        try:
            await self._on_link(lambda client: client.publish(subject, data, reply=reply))
        except (nats.errors.Error, OSError) as exc:
            raise Down(str(exc)) from None

    async def _on_link(self, work: Callable[[nats.NATS], Awaitable[Any]]) -> Any:
        """Do something on the link, for as long as that lasts: nats-py lets what is under way when its link ends wait on."""
        if (link := self.link) is None:
            raise Down(self.failure)
        doing = asyncio.ensure_future(work(link.client))
        try:
            await asyncio.wait({doing, link.gone}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                raise Unknown("the link ended before the answer")
            return doing.result()
        except nats.errors.ConnectionClosedError:
            link.end()
            raise Down("the link is gone") from None
        finally:
            if doing.cancel():
                await asyncio.gather(doing, return_exceptions=True)
            elif not doing.cancelled():
                doing.exception()  # who waits may be cancelled in the pass in which it fails

    async def api(
        self, verb: str, body: dict[str, Any] | None = None, timeout_s: float = ASK_TIMEOUT_S
    ) -> dict[str, Any]:
        """Ask JetStream; return its answer.

        Raises:
            Refused: With its code, if it says no.
            Unknown: If it cannot say (no leader just now).
            Down: If there is no link, or no JetStream behind it.
        """
        data = await self.ask(f"$JS.API.{verb}", msgspec.json.encode(body) if body else b"", timeout_s=timeout_s)
        answer: dict[str, Any] = msgspec.json.decode(data)
        _check(answer)
        return answer

    async def put(
        self, stream: str, subject: str, data: bytes, prev: int, timeout_s: float = ASK_TIMEOUT_S
    ) -> tuple[int, bool]:
        """Add a message to the log behind `prev`, the last one of its subject (0: the first one). Return its sequence.

        Raises:
            Conflict: If another one is the last.
            Busy: If one of the subject is still in process.
            EngineError: As `ask` and `api`.
        """
        headers = {"Nats-Expected-Last-Subject-Sequence": str(prev), "Nats-Expected-Stream": stream}
        answer: dict[str, Any] = msgspec.json.decode(await self.ask(subject, data, headers, timeout_s))
        _check(answer)
        return int(answer["seq"]), bool(answer.get("duplicate"))

    async def last(self, stream: str, subject: str) -> Stored | None:
        """Return the last message of a subject as the stream's leader has it; None if there is none.

        A server that takes itself for the leader answers, too: only a `put` that is acknowledged proves anything.

        Raises:
            EngineError: As `api`.
        """
        return await self._get(stream, {"last_by_subj": subject})

    async def read(self, stream: str, seq: int) -> Stored | None:
        """Return the message at a place of the log; None if there is none."""
        return await self._get(stream, {"seq": seq})

    async def _get(self, stream: str, what: dict[str, Any]) -> Stored | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", what, timeout_s=READ_TIMEOUT_S)
        except Refused as exc:
            if exc.code == NO_MESSAGE:
                return None
            raise
        message = answer["message"]
        return Stored(message["seq"], message["subject"], base64.b64decode(message.get("data", "")))

    async def serve(self, subject: str, handler: Callable[[Answer], Awaitable[None]]) -> None:
        """Have `handler` called with whatever comes in on `subject`, on this link, unless that ends meanwhile, and on all later ones."""
        self._served[subject] = handler
        try:
            if self.link is not None:
                await _subscribe(self.link, subject, handler)
        except (TimeoutError, nats.errors.Error, OSError):
            await self.drop()

    async def subscribe(self, link: Link, subject: str, handler: Callable[[Answer], Awaitable[None]]) -> Any:
        """The same on one link; `unsubscribe` takes what this returns.

        Raises:
            Down: If the link is gone.
        """
        try:
            return await _subscribe(link, subject, handler)
        except (TimeoutError, nats.errors.Error, OSError) as exc:
            raise Down(str(exc) or "no subscription in time") from None

    async def unsubscribe(self, subscription: Any) -> None:
        """End it; a link that is gone has ended it."""
        with contextlib.suppress(TimeoutError, nats.errors.Error, OSError):
            async with within(CLOSE_TIMEOUT_S):
                await subscription.unsubscribe()


async def _subscribe(link: Link, subject: str, handler: Callable[[Answer], Awaitable[None]]) -> Any:
    async def on_message(message: Any) -> None:
        await handler(Answer(message.subject, message.reply, dict(message.headers or {}), bytes(message.data)))

    async with within(CLOSE_TIMEOUT_S):  # on a broken link it waits for ever
        return await link.client.subscribe(subject, cb=on_message, pending_msgs_limit=-1, pending_bytes_limit=-1)


def _check(answer: dict[str, Any]) -> None:
    """Raise what an answer of JetStream says is wrong."""
    error = answer.get("error")
    if error is None:
        return
    code, text = int(error.get("err_code", 0)), str(error.get("description", "no reason given"))
    if code == WRONG_LAST_SEQUENCE:
        raise Conflict(text)
    if code == IN_PROCESS:
        raise Busy(text)
    if code in NOT_ENABLED or 400 <= int(error.get("code", 0)) < 500:
        raise Refused(text, code)
    raise Unknown(text)
