"""From one program of a process to the next (exec): what connections were asked for that no worker can tell, secrets and all.

It lies in memory that has no name: neither a file nor a process list shows it.
"""

from __future__ import annotations

import logging
import os

_FD = "_MOORING_SPECS"

log = logging.getLogger("mooring.serve")


def hand_over(data: bytes) -> None:
    """Prepare the next program of this very process to find `data` with `take`."""
    try:
        descriptor = os.memfd_create("mooring-specs", os.MFD_CLOEXEC)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
    except OSError as exc:
        log.error("connections that wait for a worker cannot be handed over: %s", exc.strerror)
        return
    os.set_inheritable(descriptor, True)
    os.environ[_FD] = str(descriptor)


def take() -> bytes:
    """Return what the program before us has handed over; nothing, if there was none."""
    text = os.environ.pop(_FD, "")  # not for our children
    if not text.isdigit():
        return b""
    try:
        with open(int(text), "rb") as file:
            file.seek(0)
            return file.read()
    except OSError as exc:
        log.error("what was handed over cannot be read: %s", exc.strerror)
        return b""
