"""What may begin just now: not while the service is stopping or the journal cannot be written, and only by names that are known."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from mooring.checks import check_worker_name
from mooring.connection.asked import Known, expand, is_simple
from mooring.connection.secret_headers import check_secrets
from mooring.dial_options import ProxyRequest
from mooring.errors import (
    Invalid,
    InvalidRequest,
    JournalUnavailable,
    LimitReached,
    PolicyRefused,
    Unavailable,
    UnknownFunction,
)
from mooring.link.record import ConnectionCreated
from mooring.name_errors import Declared
from mooring.options import DEFAULT_WORKER, ConnectionRequest, effective
from mooring.wire.secret_table import Secrets
from mooring_service.config import Config
from mooring_service.journal.journal import Journal


class Placing(Protocol):
    """Where workers and names live, in a cluster."""

    @property
    def node(self) -> str:
        """The name of this node."""

    def default_worker(self, node: str | None = None) -> str:
        """The worker of a create that names none, at a node (None: this one)."""

    def locate(self, worker: str, node: str | None, name: str | None = None) -> None:
        """Check that this node is where something of a worker, of that name, is to be begun, or raise `Elsewhere` or `InvalidRequest`."""

    async def barrier(self) -> None:
        """Wait until all that the log holds now is known here, or raise `EngineDown`."""

    def holds(self, worker: str) -> bool:
        """Say whether this node has a worker."""

    @property
    def may_open(self) -> bool:
        """True while nobody else can have taken what this node holds."""

    def check(self) -> None:
        """Raise `EngineDown` while what this node held is another's, and it has no new place yet."""

    async def hold(self, worker: str, *, anew: bool = False) -> bool:
        """Have this node hold a worker (`anew`: whatever the nodes that had it have died of), or raise `Elsewhere` or `EngineDown`.

        Return whether nobody had it: where nothing of it can be begun after all, it is to be given up again.
        """

    async def hold_name(self, name: str) -> None:
        """Have this node hold a name, or raise them; it cannot be given up without a connection of it."""

    def release(self, worker: str) -> asyncio.Future[Any]:
        """Give a worker up; the future, which nobody need wait for (but behind a shield), ends once that is committed."""


class Admission:
    """Asked before anything is begun.

    Attributes:
        config: The configuration as it is now; what may change at run time is replaced here.
        stopping: From now on nothing new is begun.
        placing: Where workers live; None without a cluster.
        config_file: Where what is declared is declared, for texts.
    """

    def __init__(self, config: Config, journal: Journal, config_file: str = "the configuration") -> None:
        self.config = config
        self.stopping = False
        self.config_file = config_file
        self.placing: Placing | None = None
        self._journal = journal

    def check(self) -> None:
        """Check that something new may begin.

        Raises:
            Unavailable: If the service is stopping.
            EngineDown: If this node of a cluster was declared lost, and has no new place yet.
            JournalUnavailable: As `check_writable`.
        """
        if self.stopping:
            raise Unavailable("the service is stopping")
        if self.placing is not None:
            self.placing.check()
        self.check_writable()

    @property
    def may_open(self) -> bool:
        """False while another node may have opened what this one holds: it opens nothing again then."""
        return self.placing is None or self.placing.may_open

    def check_writable(self) -> None:
        """Check that what happens can be recorded.

        Raises:
            JournalUnavailable: If the journal cannot be written just now.
        """
        if self._journal.failure is not None:
            raise JournalUnavailable(self._journal.failure)

    def placed(self, request: ConnectionRequest) -> ConnectionRequest:
        """Return a request with the worker that it means: in a cluster each node has a default one of its own.

        Raises:
            InvalidRequest: If it names a node, and there is no cluster.
        """
        if self.placing is None:
            self.locate("", request.node or None)
            return request
        if request.worker != DEFAULT_WORKER:
            return request
        return msgspec.structs.replace(request, worker=self.placing.default_worker(request.node or None))

    def locate(self, worker: str, node: str | None, name: str | None = None) -> None:
        """Check that this service is where something of a worker, a connection of that name if there is one, is to be begun.

        Raises:
            Elsewhere: If another node is; with `asked` where the one that is asked for cannot be.
            InvalidRequest: If there is no such node.
        """
        if self.placing is not None:
            self.placing.locate(worker, node, name)
        elif node is not None:
            raise InvalidRequest([Invalid("/node", "this service is no node of a cluster")])

    async def check_room(self, room: Callable[[], None], worker: str, name: str | None = None) -> None:
        """Check that there is room for something new, before a name is claimed for it: what is refused leaves no claim behind.

        Args:
            room: Raises `LimitReached` where there is none.

        Raises:
            LimitReached: By `room`.
            Elsewhere: If another node has the worker or the name: there it is done, whatever room is here.
            EngineDown: If that cannot be said just now.
        """
        try:
            room()
        except LimitReached:
            if self.placing is not None and (name is not None or not self.placing.holds(worker)):
                await self.placing.barrier()  # another node may have it in what was not read here yet
                self.placing.locate(worker, None, name)
            raise

    def held(
        self, worker: str, room: Callable[[str], None], *, anew: bool = False
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """Have this service hold a worker for a block that starts it at once: a wait before that, and it may be given up again.

        Args:
            room: Raises `LimitReached` where there is none for a worker; it is asked before one is claimed.
            anew: Somebody starts it who has seen it Failed.

        Raises:
            As `check_room`.
        """
        return contextlib.nullcontext() if self.placing is None else self._held(self.placing, worker, room, anew)

    @contextlib.asynccontextmanager
    async def _held(
        self, placing: Placing, worker: str, room: Callable[[str], None], anew: bool
    ) -> AsyncIterator[None]:
        if not placing.holds(worker):
            await self.check_room(partial(room, worker), worker)
        is_new = await placing.hold(worker, anew=anew)
        try:
            yield
        except LimitReached:  # others have taken the last place while it was claimed
            if is_new:
                placing.release(worker)  # the answer does not wait until it is committed
            raise

    @property
    def known(self) -> Known:
        """What recipes may name."""
        return Known(self.config.recipes, self.config.functions, self.config.journal.store == "memory")

    def refuse_declared(self, created: ConnectionCreated) -> None:
        """Check that a request may change or end a connection that has not ended.

        Raises:
            Declared: If the configuration has it.
        """
        if created.declared:
            raise Declared(created.name or "", self.config_file)

    def full_at(self, connections: int) -> int:
        """Return ``limits.max_connections`` if so many reach it; 0 while there is room."""
        limit = self.config.limits.max_connections
        return limit if connections >= limit else 0

    def handler(self, name: str) -> str:
        """Return the ``module:attribute`` of a handler.

        Raises:
            UnknownFunction: If it is not in the configuration.
        """
        return _look_up("handlers", self.config.handlers, name)

    def function(self, name: str) -> str:
        """Return the ``module:attribute`` of a function.

        Raises:
            UnknownFunction: If it is not in the configuration.
        """
        return _look_up("functions", self.config.functions, name)

    def with_proxy(self, request: ConnectionRequest) -> ConnectionRequest:
        """Return `request` with the default proxy said: a worker that knows none must not be asked, it would dial directly."""
        proxy = self.config.dial.proxy
        if proxy is None or request.proxy is not UNSET:
            return request
        return msgspec.structs.replace(request, proxy=proxy)

    def check_way(self, request: ConnectionRequest, *, declared: bool = False) -> None:
        """As the function of that name, by the configuration of now."""
        check_way(self.config, request, declared=declared)


def check_way(config: Config, request: ConnectionRequest, *, declared: bool) -> None:
    """Check that a connection may take the way that `request` says, and say what its headers say there.

    Raises:
        InvalidRequest: If its proxy, or a secret, is not in the configuration, or has no value now.
        SecretNotAllowed: If a secret is not bound to the host, and the configuration has not `declared` it.
        PolicyRefused: If TLS, with the server or with its proxy, would not be verified.
    """
    proxy = request.proxy
    if isinstance(proxy, str) and proxy not in config.proxies:
        nearest = difflib.get_close_matches(proxy, config.proxies, 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise InvalidRequest([Invalid("/proxy", f"[proxies] of the configuration has no {proxy!r}{hint}")])
    tls = [("tls", request.tls), ("proxy.tls", proxy.tls if isinstance(proxy, ProxyRequest) else None)]
    for place, asked in tls:
        if asked and not asked.verify and not config.egress.allow_insecure_tls:
            raise PolicyRefused(f"{place}.verify false is refused: [egress] allow_insecure_tls is not set")
    if is_simple(request):
        return
    expanded, _ = expand(request, Known(config.recipes, config.functions), [])
    check_secrets(effective(expanded), Secrets(config.secrets), declared=declared)


def check_name(name: str) -> None:
    """Check the name of a worker.

    Raises:
        InvalidRequest: If it is none.
    """
    wrong = check_worker_name(name)
    if wrong:
        raise InvalidRequest(wrong)


def _look_up(table: str, names: dict[str, str], name: str) -> str:
    reference = names.get(name)
    if reference is None:
        nearest = difflib.get_close_matches(name, names, 1)
        raise UnknownFunction(table, name, nearest[0] if nearest else None)
    return reference
