"""The composition root: journal, service, API, listener; made in this order, and ended in reverse."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from mooring_api.rest.access import Access, derived_token, load_token, own_hosts
from mooring_api.rest.access_log import ACCESS, AccessLog
from mooring_api.rest.app import make_app
from mooring_api.rest.context import Api
from mooring_api.rest.gate import Gate
from mooring_api.server import handed_specs, inner, systemd
from mooring_api.server.demo import start_demo
from mooring_api.server.listen import SocketFile, bind, inherited_or_wanted, tls_of
from mooring_api.server.state_file import prepare_state_dir, replace_text
from mooring_service.config import RUNTIME_SETTINGS, Config, JournalConfig
from mooring_service.config_file import check_secrets
from mooring_service.declarations import all_declared
from mooring_service.journal.journal import Journal
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.replica import Replica
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.processes.execution import ForkerProcess
from mooring_service.service import Service

SHUTDOWN_TIMEOUT_S = 1.0  # for requests under way; streams have been ended before

log = logging.getLogger("mooring.serve")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line decides, and no configuration file should; and `begun`, the forker's process, if there is one already."""

    state_dir: Path
    app_dirs: list[str] = []
    config_file: str = "the configuration"
    demo: bool = False
    handover: bool = False
    begun: ForkerProcess | None = None


def make_journal(config: JournalConfig, state_dir: Path, answer_age_s: float, *, clustered: bool = False) -> Journal:
    """Return the configured journal, not yet started; `clustered`: it keeps what a cluster is to have of it."""
    if config.store == "memory":
        return MemoryJournal(config, answer_age_s=answer_age_s)
    path = state_dir / "journal.db"
    return SqliteJournal(path, config, answer_age_s=answer_age_s, replica=Replica(path) if clustered else None)


class Server:
    """The service and its API, started and stopped as one."""

    def __init__(self, config: Config, options: ServeOptions, lines_dropped: Callable[[], int] = lambda: 0) -> None:
        self.config = config
        self.options = options
        self._lines_dropped = lines_dropped
        self.url = ""
        self.specs = b""  # for the next program of this process
        self._runner: web.AppRunner | None = None
        self._demo: web.AppRunner | None = None
        self._api: Api | None = None
        self._service: Service | None = None
        self._gate: Gate | None = None
        self._listener: asyncio.Server | None = None
        self._path: SocketFile | None = None
        self.inherited: systemd.Inherited  # for the next program of this process

    async def start(self) -> None:
        """Start everything; afterwards `url` is where the API is.

        Raises:
            ConfigError: If the configuration does not allow it, or the address cannot be had.
            StateDirectoryBusy: If another service has the state directory.
            TokenFileError: If its token cannot be trusted.
            OSError: If the demo's port, or a file, cannot be had.
        """
        config, options = self.config, self.options
        check_secrets(config)
        all_declared(config)
        listen, inherited = inherited_or_wanted(config.api.listen)
        tls = tls_of(listen, config.api)
        prepare_state_dir(options.state_dir)
        clustered = bool(config.cluster.name)
        journal = make_journal(config.journal, options.state_dir, config.api.idempotency_age, clustered=clustered)
        self._service = service = Service(
            config,
            options.state_dir,
            journal,
            app_dirs=options.app_dirs,
            config_file=options.config_file,
            begun=options.begun,
        )
        service.reopenings.handed = handed_specs.take()
        service.acquire()  # first: whoever does not get it must touch nothing, and names the holder, not the port
        token = None if config.api.no_auth else self._token()
        sock = bind(listen) if inherited is None else inherited.socket
        if listen.path is not None and (inherited is None or inherited.listen is not None):
            self._path = SocketFile(listen.path)  # ours, not the manager's
        # `create_server` closes its own; the next program of this process may want it.
        self.inherited = systemd.Inherited(sock.dup(), config.api.listen if inherited is None else inherited.listen)
        try:
            if options.demo:  # first: its port may be taken, and then nothing else was begun
                self._demo = await start_demo()
            await service.start()
        except BaseException:
            sock.close()
            raise
        port = sock.getsockname()[1] if listen.path is None else 0
        unix = listen.path is not None
        own = frozenset[str]() if unix else own_hosts(listen.host, port, secure=tls is not None)
        access = Access(token, config.tokens, own, config.api.hosts, secure=tls is not None, unix=unix)
        self._api = api = Api(service, config, access, self._lines_dropped)
        self._runner = web.AppRunner(
            make_app(api),
            access_log=ACCESS if config.api.access_log else None,
            access_log_class=AccessLog,
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            auto_decompress=False,
            keepalive_timeout=75.0,
            max_headers=100,
        )
        await self._runner.setup()
        assert self._runner.server is not None, "set up above"
        if service.cluster is not None:
            await service.cluster.serve(self._from_another_node(self._runner.server, access, token))
        self._gate = Gate(
            self._runner.server,
            max_connections=config.api.max_requests,
            head_timeout_s=config.api.request_timeout,
            tls=tls,
            lasts=access.is_followed,
        )
        self._listener = await asyncio.get_running_loop().create_server(self._gate, sock=sock, backlog=512)
        self.url = listen.url(port, secure=tls is not None)
        if not unix:
            service.hooks.senders.listens_at(listen.host, port)
        try:
            replace_text(options.state_dir / "address", f"{self.url}\n")
        except OSError as exc:
            # It is for those who look for us; who holds connections must not end for them.
            log.error("the file `address` cannot be written: %s", exc.strerror)

    def _token(self) -> str:
        secret_file = self.config.cluster.secret_file
        if secret_file is None:
            return load_token(self.options.state_dir)
        token = derived_token(secret_file)
        replace_text(self.options.state_dir / "token", token + "\n")
        return token

    @staticmethod
    def _from_another_node(factory: Callable[[], asyncio.Protocol], access: Access, token: str | None) -> inner.Run:
        """Return what runs a request of another node, which has checked who asks."""
        host = min(access.hosts, default="localhost")
        ours = [("Host", host)] if token is None else [("Host", host), ("Authorization", f"Bearer {token}")]
        return inner.Inner(factory, ours).run

    @property
    def died(self) -> asyncio.Future[str]:
        """Ends, with the reason, when the service can go on no longer; then it is to be stopped with `handover`."""
        assert self._service is not None, "start comes first"
        return self._service.died

    @property
    def refusal(self) -> str:
        """Why it must not be started again as it is configured, where it has died of that; else ""."""
        assert self._service is not None, "start comes first"
        return self._service.refusal

    @property
    def restart_refusal(self) -> str | None:
        """Why the next service could not go on with what this one holds; None when it could."""
        assert self._service is not None, "start comes first"
        return self._service.restart_refusal

    @property
    def worker_count(self) -> int:
        """How many workers there are."""
        return 0 if self._service is None else len(self._service.workers.slots())

    @property
    def next_connection(self) -> int:
        """The id that the next connection gets, if a request asks for it."""
        assert self._service is not None, "start comes first"
        return self._service.connections.next_connection

    def reload(self, config: Config) -> list[str]:
        """Take over what of `config` may change at run time; return the names of what may not, and has changed.

        Raises:
            ConfigError: If a secret cannot be had, or a declared connection is not valid; nothing was changed.
        """
        assert self._service is not None and self._api is not None, "start comes first"
        check_secrets(config)
        all_declared(config)
        refused = [
            field.name
            for field in msgspec.structs.fields(Config)
            if field.name not in RUNTIME_SETTINGS and getattr(config, field.name) != getattr(self.config, field.name)
        ]
        size = self.config.limits.max_body_bytes
        if config.limits.max_body_bytes != size:
            refused.append("limits.max_body_bytes")
            limits = msgspec.structs.replace(config.limits, max_body_bytes=size)
            config = msgspec.structs.replace(config, limits=limits)
        self.config = msgspec.structs.replace(self.config, **{name: getattr(config, name) for name in RUNTIME_SETTINGS})
        self._api.config = self.config
        self._api.access.set_tokens(config.tokens)
        self._service.reconfigure(self.config)
        return refused

    async def stop(self, *, handover: bool = False) -> None:
        """End streams, then workers, then the API's sockets, then the journal (the table is in DESIGN.md)."""
        service, api = self._service, self._api
        if service is None or api is None:
            return
        service.begin_stop()
        if handover:
            self.specs = service.reopenings.waiting_specs()
        if self._listener is not None:
            self._listener.close()  # nothing new comes in
        if not handover:
            # Nor into the copy that a next program would have got: whoever comes is refused at once, and not forgotten.
            self.inherited.socket.close()
            if self._path is not None:
                self._path.remove()
        await service.stop(handover=handover or self.options.handover)
        await api.close()
        if self._gate is not None:
            await self._gate.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._demo is not None:
            await self._demo.cleanup()
        (self.options.state_dir / "address").unlink(missing_ok=True)
