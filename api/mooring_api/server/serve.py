"""``mooring serve``: the life of the process, from its signals to its end. What it starts is put together in `composition`."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import msgspec

from mooring.background import Background
from mooring.process import identity
from mooring_api.server import restart, streams, systemd
from mooring_api.server.composition import ServeOptions, Server
from mooring_api.server.demo import demo_words
from mooring_service.config import RUNTIME_SETTINGS, ClusterRefused, Config, ConfigError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)

log = logging.getLogger("mooring.serve")


class Outcome(msgspec.Struct, frozen=True):
    """How `serve` has ended; with `socket`, the program is to be executed again, under running workers.

    `pending` is a signal that came too late for this one: the next program is to have it; `specs` likewise (`handed_specs`).
    """

    code: int
    socket: systemd.Inherited | None = None
    pending: signal.Signals | None = None
    specs: bytes = b""


async def serve(
    config: Config,
    options: ServeOptions,
    reload: Callable[[], Config] | None = None,
    *,
    lines_dropped: Callable[[], int] = lambda: 0,
) -> Outcome:
    """Run until SIGTERM or SIGINT. A second signal ends at once.

    SIGHUP re-reads what may change at run time. SIGUSR2 ends for a restart, if the next program can start: the workers
    go on, and the listening socket stays open, so that nobody is refused meanwhile.

    Args:
        reload: Reads the configuration again.
        lines_dropped: Tells how many lines of the log were dropped so far.
    """
    loop = asyncio.get_running_loop()
    wanted: asyncio.Future[signal.Signals] = loop.create_future()

    pending: list[signal.Signals] = []
    background = Background(log)
    asking: list[asyncio.Task[None]] = []  # whether the next program can start

    async def ask_to_restart() -> None:
        refusal = server.restart_refusal or await restart.refusal(has_socket=server.inherited.listen is None)
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
            streams.finish_standard_streams()
            os._exit(128 + number)

    for number in SIGNALS:
        loop.add_signal_handler(number, on_signal, number)
    server = Server(config, options, lines_dropped)
    early: list[signal.Signals] = []  # SIGHUP before there is anything that could be reconfigured

    def on_hangup() -> None:
        if server.url:
            _reload(server, reload)
        else:
            log.warning("SIGHUP while it starts: the configuration is read again once it has started")
            early.append(signal.SIGHUP)

    loop.add_signal_handler(signal.SIGHUP, on_hangup)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (*SIGNALS, signal.SIGHUP))
    await server.start()
    if early:
        _reload(server, reload)
    identity.settle_memory()
    # A courtesy: `streams` has it that nobody who reads it makes nothing wait, and ends nothing.
    print(f"mooring is ready at {server.url} (state in {options.state_dir})")
    if options.demo:
        print(demo_words(server.next_connection))
    systemd.notify(f"READY=1\nSTATUS=listening at {server.url}")
    watchdog = asyncio.create_task(systemd.watchdog())
    ends: set[asyncio.Future[Any]] = {wanted, server.died}
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    await background.close()
    watchdog.cancel()
    await asyncio.gather(watchdog, return_exceptions=True)
    if not wanted.done() and server.refusal:
        log.critical("%s", server.refusal)
        wanted.set_result(signal.SIGABRT)  # whatever signal comes now is the second
        await server.stop()
        raise ClusterRefused(server.refusal)
    if not wanted.done():
        log.critical("%s; ending under the running workers, which the next start goes on with", server.died.result())
        wanted.set_result(signal.SIGABRT)  # whatever signal comes now is the second
        await server.stop(handover=True)
        server.inherited.socket.close()  # no next program of this process wants it
        return Outcome(1)
    restarting = wanted.result() is signal.SIGUSR2
    if restarting:
        log.warning("restarting under %d running workers", server.worker_count)
        systemd.notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
    else:
        systemd.notify("STOPPING=1")
    await server.stop(handover=restarting)
    if restarting:
        # From here to the next program's handlers a signal would end the process: it waits, across the exec too.
        signal.pthread_sigmask(signal.SIG_BLOCK, (*SIGNALS, signal.SIGHUP))
    return Outcome(0, server.inherited if restarting else None, pending[0] if pending else None, server.specs)


def _reload(server: Server, reload: Callable[[], Config] | None) -> None:
    if reload is None:
        return
    try:
        refused = server.reload(reload())
    except ConfigError as exc:
        log.error("SIGHUP: nothing was changed: %s", exc)
        return
    for name in refused:
        log.error("SIGHUP: [%s] has changed, but needs a restart (mooring restart)", name, extra={"setting": name})
    log.warning("SIGHUP: %s were read again", ", ".join(sorted(RUNTIME_SETTINGS)))
