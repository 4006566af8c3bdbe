"""How a dial is asked for, in a request and in the configuration: TLS, proxies, addresses, and the checks of them. Pure."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mooring.checks import is_name
from mooring.errors import Invalid

PROXY_SCHEMES = ("http", "https", "socks5", "socks5h")
MAX_CREDENTIAL_BYTES = 255  # RFC 1929
MAX_ADDRESSES = 8

Family = Literal["any", "ipv4", "ipv6"]
Resolve = Literal["local", "proxy"]

_PROXY_URL = re.compile(
    r"([a-z0-9+.-]+)://(\[[0-9a-fA-F:.]+\]|[^\s/?#@\[\]:%\\\x00-\x1f\x7f]+)(?::([0-9]{1,5}))?(.*)", re.S
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WHOLE_SECRET = re.compile(r"\$\{secret:([^}]+)\}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class TlsRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """TLS of one connection: paths of PEM files readable by the worker, and whether the server is verified."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    verify: bool = True


class ProxyRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, omit_defaults=True):
    """One proxy, as a request names it: a URL without credentials, and these beside it."""

    url: Annotated[
        str,
        Meta(
            description="http://, https://, socks5:// or, by name only, socks5h://, then host:port. No credentials in it."
        ),
    ]
    username: Annotated[str | None, Meta(description="Goes with a password; none of them is ever shown.")] = None
    password: Annotated[str | None, Meta(description="Shown and logged nowhere.")] = None
    resolve: Annotated[
        Resolve | None,
        Meta(
            description="Who looks the target's name up. local (of a request: always; of socks5 in [proxies]: by default): we, and "
            "the proxy is asked for an address that the egress rules have passed. proxy: the proxy, which then is the border."
        ),
    ] = None
    tls: Annotated[TlsRequest | None, Meta(description="Of an https:// proxy: as tls of a connection.")] = None


class TlsSettings(TlsRequest, forbid_unknown_fields=True, rename={}, frozen=True):
    """`TlsRequest` as the configuration spells it."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None


class ProxySettings(ProxyRequest, forbid_unknown_fields=True, rename={}, frozen=True, omit_defaults=True):
    """One proxy of ``[proxies]``."""

    password_file: Annotated[
        str | None, Meta(description="Holds the password; read for each dial, so that it can be exchanged.")
    ] = None
    tls: Annotated[
        TlsSettings | None, Meta(description="Of an https:// proxy: ca_file, cert_file, key_file, verify.")
    ] = None


class BoundSecret(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"source": "from"}):
    """One entry of ``[secrets]`` that what a request opens may use, too."""

    source: Annotated[str, Meta(description="`file:` and an absolute path, or `env:` and a variable.")]
    hosts: Annotated[
        list[str],
        Meta(description="Where it may be sent, whoever asks: host patterns and networks, as in [egress]."),
    ] = []


SecretSource = str | BoundSecret


class DialSettings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What the configuration says about every dial.

    Attributes:
        secrets: What stands for ``${secret:NAME}``.
        proxies: By name.
        proxy: The name of the one that is used where a request says nothing.
        bypass: What is dialled without it all the same: entries as those of ``[egress]``.
        hosts: The addresses of names that are not to be looked up.
    """

    proxies: dict[str, ProxySettings] = {}
    proxy: str | None = None
    bypass: list[str] = []
    hosts: dict[str, list[str]] = {}
    secrets: dict[str, SecretSource] = {}


class DialShown(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What a record shows of how its connection was dialled: what was asked for, and nothing else. No credential."""

    proxy: str | UnsetType | None = UNSET
    family: Family | UnsetType = UNSET
    addresses: list[str] | UnsetType = UNSET
    local_address: str | UnsetType = UNSET


_NOTHING_SHOWN = DialShown()


def dial_shown(
    proxy: str | ProxyRequest | UnsetType | None, family: Family, addresses: list[str], local_address: str | None
) -> DialShown:
    """Return what a record shows of these."""
    shown = DialShown(
        proxy=proxy.url if isinstance(proxy, ProxyRequest) else proxy,
        family=UNSET if family == "any" else family,
        addresses=addresses or UNSET,
        local_address=UNSET if local_address is None else local_address,
    )
    return _NOTHING_SHOWN if shown == _NOTHING_SHOWN else shown  # most connections: one for all of them


def check_tls(tls: TlsRequest, pointer: str) -> list[Invalid]:
    """Return what is wrong with `tls`; whether the files can be used is found out by the dial."""
    wrong = []
    keys = {field.name: field.encode_name for field in msgspec.structs.fields(tls)}
    if tls.key_file is not None and tls.cert_file is None:
        wrong.append(Invalid(f"{pointer}/{keys['key_file']}", f"a key needs its {keys['cert_file']}"))
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, name)
        if path is not None and ("\0" in path or not path.startswith("/")):
            wrong.append(Invalid(f"{pointer}/{keys[name]}", "must be an absolute path"))
    return wrong


def check_addresses(addresses: list[str], pointer: str) -> list[Invalid]:
    """Return what is wrong with the addresses that are dialled instead of a name."""
    if len(addresses) > MAX_ADDRESSES:
        return [Invalid(pointer, f"more than {MAX_ADDRESSES} addresses")]
    return [
        Invalid(f"{pointer}/{at}", "not an IP address") for at, text in enumerate(addresses) if _version(text) is None
    ]


def check_local_address(address: str, pointer: str) -> list[Invalid]:
    """Return what is wrong with the address that is dialled from; whether it is one of this machine the dial finds out."""
    return [] if _version(address) is not None else [Invalid(pointer, "not an IP address")]


def family_faults(
    family: Family | UnsetType, addresses: list[str] | UnsetType, local_address: str | UnsetType
) -> list[Invalid]:
    """Return what does not fit together of values that are right by themselves.

    Args:
        local_address: Of a dial without a proxy: with one it is that of the leg to the proxy, whatever the family.
    """
    wanted = {"ipv4": 4, "ipv6": 6}.get(family) if isinstance(family, str) else None
    wrong = []
    if wanted and addresses and all(_version(address) != wanted for address in addresses):
        wrong.append(Invalid("/addresses", f"none of them is of the family {family}"))
    if wanted and isinstance(local_address, str) and _version(local_address) != wanted:
        wrong.append(Invalid("/localAddress", f"is not of the family {family}"))
    return wrong


def _version(text: str) -> int | None:
    try:
        return ip_address(text).version
    except ValueError:
        return None


def check_proxy(proxy: str | ProxyRequest, pointer: str = "/proxy") -> list[Invalid]:
    """Return what is wrong with a proxy: of the configuration if it is `ProxySettings`, else of a request.

    Whether there is one of a name is known to the configuration. No text quotes the URL or a credential.
    """
    if isinstance(proxy, str):
        return [] if is_name(proxy) else [Invalid(pointer, 'not the name of a proxy; a URL stands in {"url": …}')]
    configured = isinstance(proxy, ProxySettings)
    wrong = [Invalid(f"{pointer}/url", detail) for detail in _url_faults(proxy.url)]
    scheme = proxy.url.partition("://")[0]
    if not wrong and scheme == "socks5h":
        if not configured:
            detail = "socks5h leaves names to the proxy: only one of [proxies], asked for by its name, may do that"
            wrong.append(Invalid(f"{pointer}/url", detail))
        elif proxy.resolve == "local":
            wrong.append(Invalid(f"{pointer}/resolve", "socks5h leaves names to the proxy; socks5 does not"))
    wrong += _credential_faults(proxy, scheme, pointer)
    if proxy.tls is not None and scheme != "https":
        wrong.append(Invalid(f"{pointer}/tls", "tls is for https:// proxies"))
    return wrong if proxy.tls is None else wrong + check_tls(proxy.tls, f"{pointer}/tls")


def secret_of(password: str | None) -> str | None:
    """Return the name of the secret that a proxy's password in the configuration is; None: it is the password itself."""
    found = None if password is None else _WHOLE_SECRET.fullmatch(password)
    return None if found is None else found[1]


def secret_faults(source: SecretSource) -> list[Invalid]:
    """Return what is wrong with one entry of ``[secrets]``, but for its host patterns; whether there is a value the machine knows."""
    text, pointer = (source.source, "/from") if isinstance(source, BoundSecret) else (source, "")
    kind, colon, place = text.partition(":")
    if not colon or kind not in ("file", "env"):
        return [Invalid(pointer, "must be file:/absolute/path or env:VARIABLE; a value does not belong here")]
    if kind == "file" and ("\0" in place or not place.startswith("/")):
        return [Invalid(pointer, "the path behind file: must be absolute")]
    if kind == "env" and not _VARIABLE.match(place):
        return [Invalid(pointer, "env: must be followed by the name of a variable")]
    return []


def declared_proxy(value: Any) -> Any:
    """Return what a create body says for `value` of a declared connection: TOML has no null, ``proxy = false`` stands for it."""
    return None if value is False else value


def split_proxy_url(url: str) -> tuple[str, str, int]:
    """Return scheme, host (without brackets) and port of a URL that `check_proxy` has passed."""
    found = _PROXY_URL.fullmatch(url)
    assert found is not None and found[3], "a proxy's URL is checked before it is used"
    return found[1], found[2].strip("[]"), int(found[3])


def _url_faults(url: str) -> list[str]:
    if "@" in url:
        return ["credentials do not belong in the URL: put them in username and password"]
    found = _PROXY_URL.fullmatch(url)
    if found is None:
        return ["must be http://host:port, https://…, socks5://… or socks5h://…"]
    scheme, _, port, rest = found.groups()
    if scheme in ("socks4", "socks4a"):
        return ["SOCKS4 is not spoken here: it knows no IPv6 and no password"]
    if scheme not in PROXY_SCHEMES:
        return ["the scheme must be http, https, socks5 or socks5h"]
    if rest:
        return ["nothing may follow the port"]
    if port is None:
        return ["the port is required: defaults differ from program to program"]
    if not 1 <= int(port) <= 65535:
        return ["the port must be 1 to 65535"]
    return []


def _credential_faults(proxy: ProxyRequest, scheme: str, pointer: str) -> list[Invalid]:
    in_file = isinstance(proxy, ProxySettings) and proxy.password_file is not None
    wrong = []
    if in_file and proxy.password is not None:
        wrong.append(Invalid(f"{pointer}/password", "either password or password_file"))
    if (proxy.username is None) != (proxy.password is None and not in_file):
        missing = "username" if proxy.username is None else "password"
        wrong.append(Invalid(f"{pointer}/{missing}", "username and password go together"))
    for name, value in (("username", proxy.username), ("password", proxy.password)):
        if value is not None:
            wrong += [Invalid(f"{pointer}/{name}", detail) for detail in credential_faults(value)]
    if proxy.username is not None and scheme.startswith("http") and ":" in proxy.username:
        wrong.append(Invalid(f"{pointer}/username", "a ':' cannot be sent in the user name of an HTTP proxy"))
    return wrong


def credential_faults(value: str) -> list[str]:
    """Return what is wrong with a user name or password; the value is not quoted."""
    if _CONTROL.search(value):
        return ["has a line break, NUL or other control character"]
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return ["is not valid Unicode (a lone surrogate)"]
    if not 1 <= size <= MAX_CREDENTIAL_BYTES:
        return [f"must be 1 to {MAX_CREDENTIAL_BYTES} bytes of UTF-8"]
    return []
