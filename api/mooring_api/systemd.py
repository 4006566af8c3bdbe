"""systemd's protocols: readiness and watchdog (sd_notify(3)), and sockets that it hands over (sd_listen_fds(3))."""

from __future__ import annotations

import asyncio
import logging
import os
import socket

FIRST_FD = 3  # SD_LISTEN_FDS_START

log = logging.getLogger("mooring.serve")


def notify(state: str) -> bool:
    """Tell the service manager; False when there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect(address)
            sock.sendall(state.encode())
    except OSError as exc:
        log.warning("the service manager cannot be told %r: %s", state, exc)
        return False
    return True


def inherited_socket() -> socket.socket | None:
    """Return the listening socket that this process was started with, or None."""
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
    return sock


def hand_over(sock: socket.socket) -> None:
    """Prepare the next program of this very process (exec) to find `sock` with `inherited_socket`."""
    os.dup2(sock.fileno(), FIRST_FD, inheritable=True)
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = "1"


async def watchdog() -> None:
    """Tell the manager's watchdog that the event loop lives, twice in its period. Ends by cancellation."""
    period_us = os.environ.get("WATCHDOG_USEC", "")
    if not period_us.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    while notify("WATCHDOG=1"):
        await asyncio.sleep(int(period_us) / 2e6)
