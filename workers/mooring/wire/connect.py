"""From a target to a connection with it: names, egress policy, TCP, the proxy's steps, TLS.

One task does it all, under the deadline of whoever calls. Whatever ends it, cancelling too, closes what it had opened.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable

import msgspec
from aiohappyeyeballs import AddrInfoType, start_connection

from mooring.dial_options import DialSettings, credential_faults, secret_of
from mooring.errors import ErrCode
from mooring.wire.egress import EgressPolicy
from mooring.wire.exchange import Exchange
from mooring.wire.failure import DialFailed, failed, reason_of, refused_by_policy
from mooring.wire.proxy import HttpConnect, ProxyError, Socks5, Tunnel
from mooring.wire.resolve import NotResolved, Resolver, literal
from mooring.wire.route import Proxy, Routes, Way
from mooring.wire.secret_table import NoSecret, Secrets, read_source
from mooring.wire.target import Target
from mooring.wire.threads import Threads
from mooring.wire.tls import TlsContexts

HAPPY_EYEBALLS_S = 0.25  # RFC 8305 section 8
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 60, 15, 4

_FAMILIES = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_FAMILY_NAMES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_Refusal = Callable[[str, int, str], str | None]


class Plan(msgspec.Struct, frozen=True):
    """One dial, decided as far as it can be before anybody is asked.

    Attributes:
        known: The addresses of the target, where nobody has to be asked for them; empty: its name is looked up.
        place: What texts call the target: with the proxy, if there is one.
    """

    target: Target
    way: Way
    proxy: Proxy | None
    known: list[AddrInfoType]
    place: str


class Connector:
    """Makes the connections of one worker. For the I/O loop only."""

    def __init__(self, policy: EgressPolicy, settings: DialSettings, *, allow_insecure_tls: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._threads = Threads()
        self._resolver = Resolver(self._threads)
        self.configure(policy, settings, allow_insecure_tls=allow_insecure_tls)

    def configure(self, policy: EgressPolicy, settings: DialSettings, *, allow_insecure_tls: bool) -> None:
        """Decide by these from now on.

        Raises:
            ValueError: If the settings are not valid.
        """
        self._routes = Routes(settings)
        self._secrets = Secrets(settings.secrets)
        self._policy = policy
        self._contexts = TlsContexts(self._threads, allow_insecure=allow_insecure_tls)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.close()

    def plan(self, target: Target, way: Way) -> Plan:
        """Return the way that a dial to `target` takes.

        Raises:
            DialFailed: If there is none.
        """
        addresses = way.addresses or self._routes.addresses_of(target.host)
        known: list[AddrInfoType] = []
        for host in addresses or [target.host]:
            found = literal(host, target.port)
            if found is None and (addresses or target.is_literal):
                raise failed(ErrCode.NAME_NOT_RESOLVED, f"{target.place}: not an address")
            known += found or ()
        proxy = self._routes.proxy_for(way.proxy, target, [info[4][0] for info in known])
        place = target.place if proxy is None else f"{target.place} through {proxy.label}"
        return Plan(target, way, proxy, known, place)

    async def connect(self, plan: Plan) -> Exchange:
        """Return a connection with the target, ready for its first byte.

        Raises:
            DialFailed: If there is none.
        """
        target, way, proxy = plan.target, plan.way, plan.proxy
        context = await self._contexts.get(way.tls) if target.secure else None
        if proxy is None:
            found = await self._permitted(plan)
            try:
                if context is None:
                    return await self._connect_plainly(found, way)
                sock = await self._connect(found, way)
            except (
                OSError,
                RuntimeError,
                ValueError,
            ) as exc:  # uvloop raises RuntimeError where asyncio raises OSError
                raise _not_connected(exc, plan.place) from None
            try:
                return await self._secure(sock, context, target.host, plan)
            except (OSError, ValueError) as exc:
                raise _tls_failed(exc, plan.place) from None
        hosts = await self._handed_over(plan, proxy)
        for host in hosts[:-1]:
            try:
                return await self._through(plan, proxy, host, context)
            except DialFailed as exc:
                if exc.code not in (ErrCode.REFUSED, ErrCode.UNREACHABLE):
                    raise
        return await self._through(plan, proxy, hosts[-1], context)

    # Who is dialled.

    async def _permitted(self, plan: Plan) -> list[AddrInfoType]:
        """Return the addresses of the target that the policy lets us dial."""
        target, way = plan.target, plan.way
        family: int = _FAMILIES[way.family]
        if plan.proxy is None:
            family = _local_family(way) or family
        if plan.known:
            found = [info for info in plan.known if family in (socket.AF_UNSPEC, info[0])]
        else:
            try:
                found = await self._resolver.addresses(target.host, target.port, family)
            except NotResolved:
                message = f"the host name of {plan.place} could not be resolved"
                raise failed(ErrCode.NAME_NOT_RESOLVED, message) from None
        if not found:
            raise failed(
                ErrCode.UNREACHABLE, f"{plan.place} has no {_FAMILY_NAMES[socket.AddressFamily(family)]} address"
            )
        return _let_out(found, target.host, target.port, self._policy.refusal, "")

    async def _handed_over(self, plan: Plan, proxy: Proxy) -> list[str]:
        """Return what the proxy is asked for, one after the other: addresses that we have checked, or the name.

        All of it is decided before the proxy is dialled.
        """
        target = plan.target
        # A final dot must not make a name of an address, for a proxy that drops it.
        is_name = not plan.known and literal(target.host.rstrip(".")) is None
        if not is_name or proxy.resolve == "local":
            return [info[4][0].partition("%")[0] for info in await self._permitted(plan)]
        if not proxy.is_configured:
            raise refused_by_policy(
                f"{plan.place}: a proxy that a request names may not resolve names;"
                ' use resolve "local", or a proxy of the configuration'
            )
        refusal = self._policy.refusal_of_name(target.host, target.port)
        if refusal is not None:
            raise refused_by_policy(refusal)
        if plan.way.family != "any":
            raise failed(
                ErrCode.UNREACHABLE, f"{plan.place}: the family cannot be chosen where the proxy resolves the name"
            )
        return [target.host]

    async def _through(self, plan: Plan, proxy: Proxy, host: str, context: ssl.SSLContext | None) -> Exchange:
        """Return a connection through the proxy, which is asked for `host`."""
        target = plan.target
        kind = Socks5 if proxy.scheme == "socks5" else HttpConnect
        tunnel = kind(host, target.port, proxy.username, _password(proxy, plan, self._secrets))
        exchange = await self._reach(plan, proxy)
        try:
            await _converse(exchange, tunnel)
            if context is not None:
                await self._add_tls(exchange, context, target.host, plan)
        except ProxyError as exc:
            exchange.abort()
            raise failed(exc.code, f"{plan.place}: {exc.detail}") from None
        except BaseException:
            exchange.abort()
            raise
        return exchange

    async def _reach(self, plan: Plan, proxy: Proxy) -> Exchange:
        """Return a connection with the proxy."""

        def unreachable(what: str, cause: str = "") -> DialFailed:
            return failed(ErrCode.PROXY_UNREACHABLE, f"{plan.place}: {what}", cause)

        context = None
        if proxy.scheme == "https":
            try:
                context = await self._contexts.get(proxy.tls)
            except DialFailed as exc:
                raise exc if exc.policy else unreachable(exc.errors[0].message) from None
        family = _local_family(plan.way)
        known = [info for text in self._routes.addresses_of(proxy.host) for info in literal(text, proxy.port) or ()]
        try:
            found = known or await self._resolver.addresses(proxy.host, proxy.port, family)
        except NotResolved:
            raise unreachable("the host name of the proxy could not be resolved") from None
        found = [info for info in found if family in (socket.AF_UNSPEC, info[0])]
        if not found:
            raise unreachable("[dial] hosts has no address of the proxy of the family of localAddress")
        # The exemption belongs to this leg: a dial that goes to the proxy itself is judged as any other.
        refusal = self._policy.refusal_of_proxy if proxy.is_configured else self._policy.refusal
        found = _let_out(found, proxy.host, proxy.port, refusal, f"{plan.place}: ")
        step = "no connection to the proxy could be made"
        try:
            if context is None:
                return await self._connect_plainly(found, plan.way)
            sock = await self._connect(found, plan.way)
            step = "the TLS handshake with the proxy failed"
            return await self._secure(sock, context, proxy.host, plan)
        except (OSError, RuntimeError, ValueError) as exc:
            raise unreachable(step, _tls_text(exc)) from None

    # How.

    async def _connect_plainly(self, found: list[AddrInfoType], way: Way) -> Exchange:
        """Return a connection without TLS."""
        exchange = Exchange(self._loop)
        host, port, *of_ipv6 = found[0][4]
        if len(found) > 1 or way.local_address or any(of_ipv6):
            sock = await self._connect(found, way)
            await self._loop.create_connection(lambda: exchange, sock=sock)
            return exchange
        # Nearly always: by the loop alone, at a third of what a socket of our own costs. It looks nothing up, it is an address.
        try:
            await self._loop.create_connection(lambda: exchange, host, port)
        except ConnectionRefusedError as exc:
            raise ConnectionRefusedError(exc.errno, f"Connect call failed {found[0][4]}") from None  # as for any socket
        if way.keepalive:
            _keep_alive(exchange.transport.get_extra_info("socket"))
        return exchange

    async def _connect(self, found: list[AddrInfoType], way: Way) -> socket.socket:
        local = literal(way.local_address) if way.local_address else None
        return await start_connection(
            found,
            local_addr_infos=local,
            happy_eyeballs_delay=HAPPY_EYEBALLS_S,
            loop=self._loop,
            socket_factory=_kept_alive if way.keepalive else None,
        )

    async def _secure(self, sock: socket.socket, context: ssl.SSLContext, host: str, plan: Plan) -> Exchange:
        """Return what a connected socket becomes with TLS. From here on the transport owns it."""
        exchange = Exchange(self._loop)
        await self._loop.create_connection(
            lambda: exchange, sock=sock, ssl=context, server_hostname=_server_name(host),
            ssl_handshake_timeout=plan.way.timeout_s + 1,  # the deadline of the dial is the one that counts
        )  # fmt: skip
        return exchange

    async def _add_tls(self, exchange: Exchange, context: ssl.SSLContext, host: str, plan: Plan) -> None:
        try:
            transport = await self._loop.start_tls(
                exchange.transport, exchange, context, server_hostname=_server_name(host),
                ssl_handshake_timeout=plan.way.timeout_s + 1,
            )  # fmt: skip
            if transport is None:
                raise ConnectionResetError
        except (OSError, ValueError) as exc:
            raise _tls_failed(exc, plan.place) from None
        exchange.transport = transport


async def _converse(exchange: Exchange, tunnel: Tunnel) -> None:
    """Have the proxy connect us.

    Raises:
        ProxyError: If it does not.
    """
    exchange.transport.write(tunnel.begin())
    while not tunnel.is_open:
        try:
            data = await exchange.receive()
        except OSError:
            data = b""
        if not data:
            raise ProxyError(ErrCode.PROXY_INVALID, "it closed the connection before it had answered")
        more = tunnel.feed(data)
        if more:
            exchange.transport.write(more)


def _password(proxy: Proxy, plan: Plan, secrets: Secrets) -> str | None:
    """Return the password; one in a file, or a secret, as it is now."""
    name = secret_of(proxy.password) if proxy.is_configured else None
    if proxy.password_file is None and name is None:
        return proxy.password
    try:
        if name is not None:
            return secrets.read(name)
        password = read_source(f"file:{proxy.password_file}").rstrip("\r\n")
    except NoSecret as exc:
        raise failed(ErrCode.PROXY_AUTH_FAILED, f"{plan.place}: its password cannot be had: {exc}") from None
    if wrong := credential_faults(password):
        raise failed(ErrCode.PROXY_AUTH_FAILED, f"{plan.place}: its password file {'; '.join(wrong)}")
    return password


def _let_out(found: list[AddrInfoType], host: str, port: int, refusal: _Refusal, prefix: str) -> list[AddrInfoType]:
    """Return those of `found` that the policy lets us dial."""
    refusals = [refusal(host, port, info[4][0]) for info in found]
    allowed = [info for info, refused in zip(found, refusals, strict=True) if refused is None]
    if not allowed:
        raise refused_by_policy(f"{prefix}{next(filter(None, refusals))}")
    return allowed


def _local_family(way: Way) -> int:
    local = literal(way.local_address) if way.local_address else None
    return local[0][0] if local else socket.AF_UNSPEC


def _kept_alive(info: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    made = socket.socket(family, kind, protocol)
    _keep_alive(made)
    return made


def _keep_alive(sock: socket.socket) -> None:
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    ):
        sock.setsockopt(level, option, value)


def _server_name(host: str) -> str:
    return host.partition("%")[0].rstrip(".")


def _not_connected(exc: Exception, place: str) -> DialFailed:
    if isinstance(exc, ConnectionRefusedError):
        return failed(ErrCode.REFUSED, f"{place} refused the connection", reason_of(exc))
    return failed(ErrCode.UNREACHABLE, f"no connection to {place} could be made", reason_of(exc))


def _tls_failed(exc: Exception, place: str) -> DialFailed:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return failed(ErrCode.TLS_FAILED, f"the certificate of {place} was not accepted", _tls_text(exc))
    return failed(ErrCode.TLS_FAILED, f"the TLS handshake with {place} failed", _tls_text(exc))


def _tls_text(exc: Exception) -> str:
    return str(exc) if isinstance(exc, ssl.SSLCertVerificationError) else reason_of(exc)
