"""The forker, seen from the service: a process whose copies are workers. That starts them faster and smaller than exec does.

What it cannot do is done by exec: no start is refused because of it. What is said on its socket stands in `mooring.process.forker`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import deque
from typing import Any

from mooring.deadline import within
from mooring.link.messages import WorkerSettings
from mooring.process import forker as there
from mooring.process import identity
from mooring_service.processes import execution, orphans, worker_process
from mooring_service.processes.execution import ForkerProcess
from mooring_service.processes.worker_process import ProcessIdentity, WorkerProcess

PREPARE_S = 1.0  # a service that goes on with its workers has better to do at first
ANSWER_S = 5.0  # its imports, too, where it has just been started
RENEW_S = 10.0  # so long after the last one was started, a new one is; workers of that time are started by exec
END_S = 1.0  # it has nothing to do at its end

log = logging.getLogger("mooring.supervisor")


class Forker:
    """Has workers forked; renews the process that does it. On the service's loop only.

    Args:
        begun: The process, if there is one already; from `begin` on it is ours.
    """

    def __init__(self, begun: ForkerProcess | None = None) -> None:
        self._begun = begun
        self._helper: _Helper | None = None
        self._soon: asyncio.Handle | None = None
        self._ending: set[WorkerProcess] = set()
        self._renewed_at = -RENEW_S

    def begin(self) -> None:
        """Take over the process that was begun before us, or start one: at the first worker, or once the service has come up."""
        try:
            orphans.adopt_all()  # else nobody could tell how a worker has ended
        except OSError as exc:
            log.warning("workers are started by exec: %s", exc)
            self._renewed_at = float("inf")
            if self._begun is not None:
                self._begun.end()
            return
        if self._begun is not None:
            self._take_over(self._begun)
        else:
            self._soon = asyncio.get_running_loop().call_later(PREPARE_S, self._prepare)

    async def start(self, settings: WorkerSettings) -> WorkerProcess | None:
        """Have a worker forked; None if it cannot be, which is in the log: it is to be started by exec."""
        helper = self._helper
        if helper is None or helper.environment != execution.environment():
            helper = self._renew("" if helper is None else "the environment has changed")
        if helper is None:
            return None
        try:
            async with within(ANSWER_S):
                return await helper.fork(settings)
        except TimeoutError:
            why = f"the forker has not answered for {ANSWER_S:g} s"
        except OSError as exc:
            why = str(exc)
        if helper is self._helper:
            self._renew(why)
        log.warning("worker %s is started by exec: %s", settings.worker, why)
        return None

    async def close(self) -> None:
        """End the process."""
        if self._soon is not None:
            self._soon.cancel()
        self._renewed_at = float("inf")
        self._end_helper("the service ends")
        if self._ending:
            await asyncio.wait({process.exited for process in self._ending}, timeout=END_S)
        for process in self._ending:
            process.let_go()

    def _take_over(self, begun: ForkerProcess) -> None:
        try:
            self._helper = _Helper(begun)
        except OSError as exc:
            log.warning("the forker cannot be held: %s", exc)

    def _prepare(self) -> None:
        if self._helper is None:
            self._renew("")

    def _renew(self, why: str) -> _Helper | None:
        self._end_helper(why)
        if time.monotonic() < self._renewed_at + RENEW_S:
            return None
        self._renewed_at = time.monotonic()
        try:
            self._helper = _Helper(ForkerProcess())
        except OSError as exc:
            log.warning("the forker cannot be started: %s", exc)
        return self._helper

    def _end_helper(self, why: str) -> None:
        if self._helper is not None:
            self._helper.close(why)
            process = self._helper.process
            self._ending.add(process)
            process.exited.add_done_callback(lambda _: self._ending.discard(process))
            self._helper = None


class _Helper:
    """One such process.

    Raises:
        OSError: If it cannot be held; it has ended then.

    Attributes:
        environment: What its copies inherit.
    """

    def __init__(self, begun: ForkerProcess) -> None:
        self.environment = begun.environment
        self._loop = asyncio.get_running_loop()
        self._control = begun.control
        try:
            self.process = worker_process.hold(begun.child)
        except OSError:
            begun.end()
            raise
        self._control.setblocking(False)
        self._ready: asyncio.Future[None] = self._loop.create_future()
        self._answers: deque[asyncio.Future[WorkerProcess]] = deque()
        self._over: OSError | None = None
        self._loop.add_reader(self._control, self._on_readable)

    async def fork(self, settings: WorkerSettings) -> WorkerProcess:
        """Have a worker forked.

        Raises:
            OSError: If it cannot be.
        """
        await asyncio.shield(self._ready)
        if self._over is not None:
            raise self._over
        gate, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with gate:
            with its_end, worker_process.log_of(settings) as log_fd:
                self._ask(settings.worker, [log_fd, its_end.fileno()])
            answer: asyncio.Future[WorkerProcess] = self._loop.create_future()
            self._answers.append(answer)
            process = await answer
            # Only now: a worker lives when we hold it. One that finds the gate closed ends without a word.
            with worker_process.in_memory(settings) as settings_fd:
                socket.send_fds(gate, [b"."], [settings_fd])
        return process

    def _ask(self, worker: str, descriptors: list[int]) -> None:
        try:
            socket.send_fds(self._control, [worker.encode()], descriptors)
        except OSError as exc:
            self.close(str(exc))
            raise OSError(f"the forker is gone: {exc}") from None

    def close(self, why: str) -> None:
        """Let it end, and tell who waits; once."""
        if self._over is not None:
            return
        self._over = OSError(f"the forker is gone: {why}")
        self._loop.remove_reader(self._control)
        self._control.close()
        waiting: list[asyncio.Future[Any]] = [self._ready, *self._answers]
        for future in waiting:
            if not future.done():
                future.set_exception(self._over)
                future.exception()  # whoever waits has it; the others need not be told
        self._answers.clear()

    def _on_readable(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, there.MAX_MESSAGE_BYTES, 1)
        except BlockingIOError:
            return
        except OSError as exc:
            self.close(str(exc))
            return
        if message == there.READY:
            self._ready.set_result(None)
            return
        answer = self._answers.popleft() if self._answers else None
        if message.startswith(there.FORKED):
            pid = int(message.removeprefix(there.FORKED))
            if answer is None or answer.done():
                os.close(descriptors[0])  # who waited for it has gone, and its gate is closed
            else:
                answer.set_result(_born(pid, descriptors[0]))
        elif message.startswith(there.FAILED) and answer is not None and not answer.done():
            answer.set_exception(OSError(message.removeprefix(there.FAILED).decode()))
        else:
            if answer is not None:
                self._answers.appendleft(answer)
            self.close("its code has changed" if message == there.STALE else "it has ended")


def _born(pid: int, pidfd: int) -> WorkerProcess:
    return WorkerProcess(ProcessIdentity(pid, identity.started_at_ticks(pid), identity.boot_id()), pidfd, None)
