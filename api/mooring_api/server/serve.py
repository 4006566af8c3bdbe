"""``mooring serve``: the composition root. Starts journal → feed → supervisor → API, and stops them in reverse."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import signal
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiohttp import web

from mooring.background import Background
from mooring.process import identity
from mooring_api.rest.access import Access, load_token, own_hosts
from mooring_api.rest.app import make_app
from mooring_api.rest.context import Api
from mooring_api.rest.gate import Gate, NoRawBytes
from mooring_api.server import restart, systemd
from mooring_api.server.demo import DEMO_PORT, start_demo
from mooring_api.server.state_file import replace_text
from mooring_service.config import RUNTIME_SETTINGS, ApiConfig, Config, ConfigError, JournalConfig
from mooring_service.journal.journal import Journal
from mooring_service.journal.memory import MemoryJournal
from mooring_service.journal.sqlite import SqliteJournal
from mooring_service.service import Service

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
SHUTDOWN_TIMEOUT_S = 1.0  # for requests under way; streams have been ended before

log = logging.getLogger("mooring.serve")


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line decides, and no configuration file should."""

    state_dir: Path
    app_dirs: list[str] = []
    demo: bool = False
    handover: bool = False


class Listen(msgspec.Struct, frozen=True):
    """Where the API listens: a TCP address, or the path of a Unix socket."""

    host: str = ""
    port: int = 0
    path: str | None = None


def parse_listen(text: str) -> Listen:
    """Return what ``HOST:PORT`` or ``unix:PATH`` means.

    Raises:
        ConfigError: If it is neither.
    """
    if text.startswith("unix:"):
        if not text[5:]:
            raise ConfigError("api.listen: unix: needs a path")
        return Listen(path=text[5:])
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigError(f"api.listen: {text!r} is not HOST:PORT or unix:PATH")
    return Listen(host.strip("[]"), int(port))


def is_loopback(host: str) -> bool:
    """Say whether listening on `host` reaches only this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def prepare_state_dir(path: Path) -> None:
    """Make the state directory, or check that it is ours alone.

    Raises:
        ConfigError: If others could write in it, or it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
        if status.st_uid != os.getuid():
            raise ConfigError(f"the state directory {path} belongs to another user")
        if stat.S_IMODE(status.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as exc:
        raise ConfigError(f"the state directory {path} cannot be used: {exc.strerror}") from None


def tls_of(listen: Listen, api: ApiConfig) -> ssl.SSLContext | None:
    """Return with which certificate `listen` is served; None: without TLS.

    Raises:
        ConfigError: If the certificate cannot be used, or tokens would travel in the clear.
    """
    if api.tls_cert is None:
        if listen.path is None and not is_loopback(listen.host) and not api.allow_remote:
            raise ConfigError(
                f"{listen.host} is not loopback: give tls_cert and tls_key, or say --allow-remote to send tokens in the clear"
            )
        return None
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        tls.load_cert_chain(api.tls_cert, api.tls_key, password="")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"api.tls_cert: cannot be used: {exc}") from None
    return tls


def make_journal(config: JournalConfig, state_dir: Path, answer_age_s: float) -> Journal:
    """Return the configured journal, not yet started."""
    if config.store == "memory":
        return MemoryJournal(config, answer_age_s=answer_age_s)
    return SqliteJournal(state_dir / "journal.db", config, answer_age_s=answer_age_s)


class Server:
    """The service and its API, started and stopped as one."""

    def __init__(self, config: Config, options: ServeOptions) -> None:
        self.config = config
        self.options = options
        self.url = ""
        self._runner: web.AppRunner | None = None
        self._demo: web.AppRunner | None = None
        self._api: Api | None = None
        self._service: Service | None = None
        self._listener: asyncio.Server
        self.inherited: systemd.Inherited  # for the next program of this process

    async def start(self) -> None:
        """Start everything; afterwards `url` is where the API is.

        Raises:
            ConfigError: If the configuration does not allow it, or the address cannot be had.
            StateDirectoryBusy: If another service has the state directory.
            OSError: If the demo's port, or a file, cannot be had.
        """
        config, options = self.config, self.options
        listen, inherited = self._inherited()
        tls = tls_of(listen, config.api)
        prepare_state_dir(options.state_dir)
        journal = make_journal(config.journal, options.state_dir, config.api.idempotency_age)
        self._service = service = Service(config, options.state_dir, journal, app_dirs=options.app_dirs)
        service.acquire()  # first: whoever does not get it must touch nothing, and names the holder, not the port
        sock = self._bind(listen) if inherited is None else inherited.socket
        # `create_server` closes its own; the next program of this process may want it.
        self.inherited = systemd.Inherited(sock.dup(), config.api.listen if inherited is None else inherited.listen)
        try:
            await service.start()
        except BaseException:
            sock.close()
            raise
        token = None if config.api.no_auth else load_token(options.state_dir)
        port = sock.getsockname()[1] if listen.path is None else 0
        hosts = own_hosts(listen.host, port, config.api.hosts, secure=tls is not None)
        if listen.path is not None:
            hosts |= {"localhost"}
        self._api = api = Api(service, config, Access(token, config.tokens, hosts, secure=tls is not None))
        self._runner = web.AppRunner(
            make_app(api),
            access_log=log if config.api.access_log else None,
            access_log_format="%a %s %b %Tf",  # never the request line: a query may hold a secret
            handler_cancellation=True,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            auto_decompress=False,
            keepalive_timeout=75.0,
            max_headers=100,
        )
        await self._runner.setup()
        assert self._runner.server is not None, "set up above"
        gate = Gate(
            self._runner.server,
            max_connections=config.api.max_requests,
            head_timeout_s=config.api.request_timeout,
        )
        self._listener = await asyncio.get_running_loop().create_server(gate, sock=sock, ssl=tls, backlog=512)
        if listen.path is not None:
            self.url = f"unix:{listen.path}"
        else:
            host = listen.host if listen.host not in ("0.0.0.0", "::") else "127.0.0.1"
            self.url = f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
        replace_text(options.state_dir / "address", f"{self.url}\n")
        if options.demo:
            self._demo = await start_demo()

    def _inherited(self) -> tuple[Listen, systemd.Inherited | None]:
        """Return where to listen, and the socket that does already, if there is one."""
        wanted = self.config.api.listen
        listen = parse_listen(wanted)
        inherited = systemd.inherited_socket()
        if inherited is None or inherited.listen == wanted:
            return listen, inherited
        if inherited.listen is not None:
            inherited.socket.close()  # the setting has changed since
            return listen, None
        # The manager's socket beats the setting; the rules are those of where it really listens.
        name = inherited.socket.getsockname()
        unix = inherited.socket.family == socket.AF_UNIX
        return (Listen(path=name) if unix else Listen(name[0], name[1])), inherited

    @property
    def worker_count(self) -> int:
        """How many workers there are."""
        return 0 if self._service is None else len(self._service.workers.slots())

    @property
    def next_connection(self) -> int:
        """The id that the next connection gets, if a request asks for it."""
        assert self._service is not None, "start comes first"
        return self._service.connections.next_connection

    @staticmethod
    def _bind(listen: Listen) -> socket.socket:
        if listen.path is not None:
            path = Path(listen.path)
            if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
                path.unlink()
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            old = os.umask(0o177)
            try:
                sock.bind(listen.path)
            finally:
                os.umask(old)
            return sock
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((listen.host, listen.port))
        except OSError as exc:
            sock.close()
            raise ConfigError(
                f"cannot listen on {listen.host}:{listen.port}: {exc.strerror}; choose another with --listen, or end what has it"
            ) from None
        return sock

    def reload(self, config: Config) -> list[str]:
        """Take over what of `config` may change at run time; return the names of what may not, and has changed."""
        assert self._service is not None and self._api is not None, "start comes first"
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
        if self._runner is not None:
            self._listener.close()  # nothing new comes in
        await service.stop(handover=handover or self.options.handover)
        await api.close()
        if self._runner is not None:
            await self._runner.cleanup()
        if self._demo is not None:
            await self._demo.cleanup()
        (self.options.state_dir / "address").unlink(missing_ok=True)


class Outcome(msgspec.Struct, frozen=True):
    """How `serve` has ended; with `socket`, the program is to be executed again, under running workers.

    `pending` is a signal that came too late for this one: the next program is to have it.
    """

    code: int
    socket: systemd.Inherited | None = None
    pending: signal.Signals | None = None


async def serve(config: Config, options: ServeOptions, reload: Callable[[], Config] | None = None) -> Outcome:
    """Run until SIGTERM or SIGINT. A second signal ends at once.

    SIGHUP re-reads what may change at run time. SIGUSR2 ends for a restart, if the next program can start: the workers
    go on, and the listening socket stays open, so that nobody is refused meanwhile.

    Args:
        reload: Reads the configuration again.
    """
    loop = asyncio.get_running_loop()
    wanted: asyncio.Future[signal.Signals] = loop.create_future()

    pending: list[signal.Signals] = []
    background = Background(log)
    asking: list[asyncio.Task[None]] = []  # whether the next program can start

    async def ask_to_restart() -> None:
        refusal = await restart.refusal()
        if refusal is not None:
            log.error("the restart is refused, this service goes on: %s", refusal)
            restart.tell_refused(options.state_dir, refusal)
        elif not wanted.done():
            wanted.set_result(signal.SIGUSR2)

    def on_signal(number: signal.Signals) -> None:
        if number is signal.SIGUSR2:
            if not wanted.done() and all(task.done() for task in asking):
                asking[:] = [background.spawn(ask_to_restart())]
        elif not wanted.done():
            wanted.set_result(number)
        elif wanted.result() is signal.SIGUSR2 and not pending:
            pending.append(number)  # the workers are handed over already: the next program ends them, in order
        else:
            log.warning("%s again: ending at once", number.name)
            os._exit(128 + number)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    logging.getLogger("aiohttp.server").addFilter(NoRawBytes())
    server = Server(config, options)
    loop.add_signal_handler(signal.SIGHUP, _reload, server, reload)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGHUP))
    await server.start()
    identity.settle_memory()
    print(f"mooring is ready at {server.url} (state in {options.state_dir})", flush=True)
    if options.demo:
        print_demo(server.next_connection)
    systemd.notify(f"READY=1\nSTATUS=listening at {server.url}")
    watchdog = asyncio.create_task(systemd.watchdog())
    number = await wanted
    await background.close()
    watchdog.cancel()
    await asyncio.gather(watchdog, return_exceptions=True)
    restarting = number is signal.SIGUSR2
    if restarting:
        log.warning("restarting under %d running workers", server.worker_count)
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    else:
        systemd.notify("STOPPING=1")
    await server.stop(handover=restarting)
    if restarting:
        # From here to the next program's handlers a signal would end the process: it waits, across the exec too.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGHUP))
    return Outcome(0, server.inherited if restarting else None, pending[0] if pending else None)


def _reload(server: Server, reload: Callable[[], Config] | None) -> None:
    if reload is None or not server.url:
        return  # while it starts, the configuration has just been read
    try:
        refused = server.reload(reload())
    except ConfigError as exc:
        log.error("SIGHUP: nothing was changed: %s", exc)
        return
    for name in refused:
        log.error("SIGHUP: [%s] has changed, but needs a restart (mooring restart)", name, extra={"setting": name})
    log.warning("SIGHUP: %s were read again", ", ".join(sorted(RUNTIME_SETTINGS)))


def print_demo(connection: int) -> None:
    """Say what to type next; `connection` is the id that the first command will get."""
    command = Path(sys.argv[0])
    try:
        mooring = str(command.relative_to(Path.cwd()))
    except ValueError:
        mooring = str(command)
    print(
        f"""An echo server is at ws://127.0.0.1:{DEMO_PORT}/. In another terminal, type:

  {mooring} open ws://127.0.0.1:{DEMO_PORT}/
  {mooring} send {connection} 'Hello world'
  {mooring} tail {connection}
""",
        flush=True,
    )
