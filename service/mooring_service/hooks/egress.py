"""Where hooks may post to: `[delivery]`, what `[egress]` denies, and never into mooring itself.

It is decided on each address that is dialled, as for connections; a name that is moved later opens nothing.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import ip_address

from mooring.wire.egress import EgressPolicy, spellings
from mooring.wire.resolve import literal
from mooring.wire.target import Target

OURS = "this is mooring's own address: a hook that posts into it would feed itself"


class DeliveryPolicy(EgressPolicy):
    """The decision about hooks.

    Args:
        own: Host and port that the API listens at; None: at no port.
    """

    def __init__(self, allow: Iterable[str], deny: Iterable[str], own: tuple[str, int] | None) -> None:
        super().__init__(allow, deny, table="delivery")
        self._own = own

    def _denial(self, host: str, port: int, address_text: str) -> str | None:
        if self._own is not None and port == self._own[1] and _is_own(self._own[0], address_text):
            return OURS
        return super()._denial(host, port, address_text)

    def refusal_at_once(self, target: Target) -> str | None:
        """Return why a target is refused whatever its name says now; None where that is known at the dial only."""
        is_local = target.host.rstrip(".").lower() == "localhost"
        hosts = ["127.0.0.1", "::1"] if is_local else [target.host]
        refusals = [
            self.refusal(target.host, target.port, info[4][0])
            for host in hosts
            for info in literal(host, target.port) or ()
        ]
        return next(filter(None, refusals), None)


def _is_own(listening: str, address_text: str) -> bool:
    """Say whether a server that listens at `listening` is reached at an address."""
    forms = spellings(ip_address(address_text.partition("%")[0]))
    wanted = ip_address("127.0.0.1" if listening == "localhost" else listening.strip("[]"))
    if not wanted.is_unspecified:
        return wanted in forms
    return any(form.is_unspecified or form.is_loopback or _is_of_this_machine(str(form)) for form in forms)


def _is_of_this_machine(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
