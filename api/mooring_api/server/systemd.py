"""systemd's protocols: readiness and watchdog (sd_notify(3)), and sockets that it hands over (sd_listen_fds(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from typing import NamedTuple

FIRST_FD = 3  # SD_LISTEN_FDS_START
NOTIFY_TIMEOUT_S = 1.0
_LISTEN = "_MOORING_LISTEN"  # from one program of a process to the next: what the socket was bound for

log = logging.getLogger("mooring.serve")


def notify(state: str, timeout_s: float = NOTIFY_TIMEOUT_S) -> bool:
    """Tell the service manager; False when there is none, or it does not listen for `timeout_s`."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(timeout_s)
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as exc:
        log.warning("the service manager cannot be told %r: %s", state, exc)
        return False
    return True


class Inherited(NamedTuple):
    """A listening socket that this process was started with.

    `listen` is the setting that an earlier program of this process has bound it for; None: it is the manager's.
    """

    socket: socket.socket
    listen: str | None


def inherited_socket() -> Inherited | None:
    """Return the listening socket that this process was started with, or None."""
    listen = os.environ.pop(_LISTEN, None)
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or not os.environ.get("LISTEN_FDS", "").isdigit():
        return None
    count = int(os.environ["LISTEN_FDS"])
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)  # not for our children
    if count < 1:
        return None
    if count > 1:
        log.warning("%d sockets were handed over; the first one is used", count)
    os.set_inheritable(FIRST_FD, False)
    sock = socket.socket(fileno=FIRST_FD)
    sock.setblocking(False)
    return Inherited(sock, listen)


def hand_over(inherited: Inherited) -> None:
    """Prepare the next program of this very process (exec) to find a socket with `inherited_socket`."""
    os.dup2(inherited.socket.fileno(), FIRST_FD)
    os.set_inheritable(FIRST_FD, True)  # dup2 does nothing at all when it is that descriptor already
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = "1"
    if inherited.listen is not None:
        os.environ[_LISTEN] = inherited.listen


async def watchdog() -> None:
    """Tell the manager's watchdog that the event loop lives, twice in its period. Ends by cancellation."""
    period_us = os.environ.get("WATCHDOG_USEC", "")
    if not period_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while True:
        # Whether or not it is heard: a manager that is away for a moment comes back. It waits for nothing: one that does
        # not read must not stop the loop whose life is told.
        notify("WATCHDOG=1", timeout_s=0.0)
        await asyncio.sleep(int(period_us) / 2e6)
