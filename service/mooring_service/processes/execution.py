"""How processes of ours are executed; the forker's may be before there is a service.

That one imports for as long as all that a service is made of, and no worker can be forked before: so it is begun where nothing is
imported yet but the configuration, and is ready when the first worker is to be started. Hence this file imports the standard library alone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence

# -P: code comes from where the configuration says (--app-dir), never from the folder we were started in.
PYTHON = (sys.executable, "-P")
TITLE_ROOM = " " * 160  # an argument of the forker: where a copy writes the command line that a worker has
FORKER = (*PYTHON, "-m", "mooring.process.forker", TITLE_ROOM)
KEEP_ENVIRONMENT_OUT = (
    "MOORING_TOKEN", "_MOORING_LISTEN", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS",
    "LISTEN_FDNAMES",
)  # fmt: skip
"""The worker runs user code: the API's token, and what the service manager says to the service alone, are none of its business."""


def environment() -> dict[str, str]:
    """Return the environment of workers, as it is now."""
    kept = {name: value for name, value in os.environ.items() if name not in KEEP_ENVIRONMENT_OUT}
    return kept | {"PYTHONUNBUFFERED": "1"}


def execute(command: Sequence[str], *, stdin: int, output: int | None = None) -> subprocess.Popen[bytes]:
    """Start a process of ours by exec.

    Args:
        output: Where it prints; None: where we do.

    Raises:
        OSError: If it cannot be started.
    """
    return subprocess.Popen(
        command,
        stdin=stdin,
        stdout=output,
        stderr=output,
        close_fds=True,
        start_new_session=True,  # Ctrl-C is for the service, which then ends its workers in order
        env=environment(),
    )


class ForkerProcess:
    """The process of a forker, just executed: it imports. Whoever has begun it ends it, unless a service has.

    Raises:
        OSError: If it cannot be started.

    Attributes:
        environment: What its copies inherit.
        control: Our end of its socket; at the end of that it ends by itself, so also when we are killed.
        child: The process.
    """

    def __init__(self) -> None:
        self.environment = environment()
        self.control, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            try:
                self.child = execute(FORKER, stdin=its_end.fileno())
            except OSError:
                self.control.close()
                raise

    def end(self) -> None:
        """End it at once (it holds nothing yet), and wait for that; nothing if a service has ended or left it."""
        self.control.close()
        if self.child.returncode is None:
            self.child.kill()
            self.child.wait()
