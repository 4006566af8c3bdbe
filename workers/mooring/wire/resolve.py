"""Host names to addresses, in threads of our own (`threads.py`), by the system's resolver."""

from __future__ import annotations

import socket
from functools import lru_cache

from aiohappyeyeballs import AddrInfoType

from mooring.wire.threads import Threads

_NUMERIC = int(socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)


class NotResolved(Exception):
    """The name has no address, or nobody who could say so answers."""


class Resolver:
    """Looks names up.

    Args:
        threads: Where it blocks.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads

    async def addresses(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[AddrInfoType]:
        """Return where `host`, a name or an address in any spelling, can be reached; never an empty list.

        Raises:
            NotResolved: If it cannot.
        """
        found = literal(host, port)
        if found is None:
            try:
                found = await self._threads.run((host.lower(), family), lambda: _look_up(host, family))
            except (OSError, UnicodeError) as exc:  # a label that is too long is no name at all
                raise NotResolved from exc
        found = [
            (kind, sort, protocol, "", (address[0], port, *address[2:]))
            for kind, sort, protocol, _, address in found
            if family in (socket.AF_UNSPEC, kind)
        ]
        if not found:
            raise NotResolved
        return found


def literal(host: str, port: int = 0) -> list[AddrInfoType] | None:
    """Return the address that `host` is a spelling of (``0x7f.1`` is one, too), or None if it is a name. No look-up."""
    found = _literal(host, port)
    return None if found is None else list(found)


@lru_cache(maxsize=256)  # many connections of a worker go to one address
def _literal(host: str, port: int) -> tuple[AddrInfoType, ...] | None:
    try:
        return tuple(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=_NUMERIC))
    except (OSError, UnicodeError):
        return None


def _look_up(host: str, family: int) -> list[AddrInfoType]:
    return socket.getaddrinfo(  # type: ignore[return-value]
        host, None, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
