"""What a hook may be asked for, in requests and in the configuration: the rows, their checks, its secrets. Pure leaf.

A hook is a subscriber that is a URL. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from mooring.bounds import doc
from mooring.checks import HeaderValue, check_headers, check_worker_name, escape_pointer, is_name
from mooring.dial_options import ProxyRequest, TlsRequest, TlsSettings, check_proxy, check_tls, declared_proxy
from mooring.errors import Invalid
from mooring.events import Kind

HOOK_NAME_PATTERN = "[A-Za-z0-9][A-Za-z0-9_-]{0,62}"
"""No dot: a hook's name stands in `webhook-id`, where a dot parts what is signed."""
HOOK_KINDS = bytes(kind for kind in Kind if kind.name.startswith("hook"))
"""What hooks say about themselves: it goes to none that has not asked for it, or each failure would feed the next."""
MAX_URL_CHARS = 8_000
MAX_IDS = 1_000
MAX_PAGE = 1_000
MAX_BYTES = 8 * 1024 * 1024
MIN_BYTES = 1024
MIN_SECRET_BYTES, MAX_SECRET_BYTES = 24, 64
SECRET_PREFIX = "whsec_"  # of Standard Webhooks; no secret
HIDDEN = "***"  # what records show instead of a query, or a header's value
AFTER = re.compile(r"start|now|[0-9a-z]{1,32}-[0-9]{1,19}")

Format = Literal["page", "event", "lines"]
Refused = Literal["hold", "skip"]

_NAME = re.compile(HOOK_NAME_PATTERN)
_OURS = ("webhook-", "mooring-", "content-")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")


def is_hook_name(text: str) -> bool:
    """Say whether `text` can be a hook's name."""
    return _NAME.fullmatch(text) is not None


class RetryRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True):
    """The one retry clock of a hook: the first delay, which doubles with each failure, and the longest."""

    delay: Annotated[float, Meta(ge=0.1, le=60, description="Seconds before the first retry; it doubles.")] = 1.0
    max_delay: Annotated[float, Meta(ge=1, le=3_600, description="No delay is longer, in seconds.")] = 60.0


class RetrySettings(RetryRequest, forbid_unknown_fields=True, rename={}, frozen=True):
    """`RetryRequest` as the configuration spells it."""

    max_delay: Annotated[float, Meta(ge=1, le=3_600, description="No delay is longer, in seconds.")] = 60.0


class HookRequest(msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True):
    """The body of ``PUT /v1/hooks/{name}``: only `url` is required."""

    url: Annotated[
        str,
        Meta(
            description="https://…; http:// for loopback, or where [delivery] allow_plain says so. Records do not show its query."
        ),
    ]
    workers: Annotated[list[str], Meta(description="Only events of these workers; none: of all.")] = []
    connections: Annotated[
        list[int | str], Meta(description="Only events of these connections, by id or name; none: of all.")
    ] = []
    kinds: Annotated[list[str], Meta(description="Only these kinds; none: all but those of hooks.")] = []
    after: Annotated[
        str, Meta(description="Where it begins when it is made: `start`, `now`, or the id of an event.")
    ] = "now"
    format: Annotated[
        Format,
        Meta(description="page: {hook, generation, after, next, events}; event: one event a POST; lines: ndjson."),
    ] = "page"
    max_events: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_PAGE)] | UnsetType,
        Meta(description="Of one POST; 500, and 1 with format event."),
    ] = UNSET
    max_bytes: Annotated[
        int, Meta(ge=MIN_BYTES, le=MAX_BYTES, description="Of one POST; a larger event goes by itself.")
    ] = 524_288
    max_event_bytes: Annotated[
        int, Meta(ge=0, description="A larger event is posted without its data, with a link to it; 0: none is.")
    ] = 1_000_000
    linger: Annotated[float, Meta(ge=0, le=60, description="Seconds to wait for more events of one POST.")] = 0.0
    timeout: Annotated[float, Meta(ge=1, le=60, description="Seconds, from the dial to the head of the answer.")] = 15.0
    retry: RetryRequest = RetryRequest()
    refused: Annotated[
        Refused,
        Meta(description="What becomes of an event that the receiver does not want (400, 413, 415, 422) by itself."),
    ] = "hold"
    headers: Annotated[dict[str, HeaderValue], Meta(description="Sent with each POST; values are shown nowhere.")] = {}
    secret: Annotated[
        str | UnsetType,
        Meta(description="whsec_ and base64 of 24 to 64 bytes; without: one is made. Never shown again."),
    ] = UNSET
    tls: TlsRequest = TlsRequest()
    proxy: Annotated[
        str | ProxyRequest | UnsetType | None,
        Meta(description="As that of a connection: a name of [proxies], an object, or null for none."),
    ] = UNSET
    paused: Annotated[bool | UnsetType, Meta(description="Begin paused; absent in a later PUT: as it is.")] = UNSET

    @property
    def page_events(self) -> int:
        """How many events one POST may hold."""
        if isinstance(self.max_events, int):
            return self.max_events
        return 1 if self.format == "event" else 500

    @property
    def content(self) -> tuple[object, ...]:
        """What decides which bytes a range of events is: where it changes, the hook's generation does."""
        return (
            sorted(self.workers),
            sorted(map(str, self.connections)),
            sorted(self.kinds),
            self.format,
            self.max_event_bytes,
        )

    @property
    def follows_names(self) -> bool:
        """Whether some of its connections are meant by name."""
        return any(isinstance(one, str) for one in self.connections)

    @property
    def kind_numbers(self) -> frozenset[int]:
        """The kinds as numbers."""
        return frozenset(int(Kind[name]) for name in self.kinds)

    @property
    def host(self) -> str:
        """The host of the URL with its port: what logs and texts may say."""
        return urlsplit(self.url).netloc

    @property
    def shown_url(self) -> str:
        """The URL as records show it: its query may hold a credential."""
        place, mark, _ = self.url.partition("?")
        return place + mark + HIDDEN if mark else place


class HookSettings(HookRequest, forbid_unknown_fields=True, rename={}, frozen=True, kw_only=True):
    """One hook of ``[hooks]``: as a request has it, but for its secrets."""

    max_events: Annotated[
        Annotated[int, Meta(ge=1, le=MAX_PAGE)] | UnsetType,
        Meta(description="Of one POST; 500, and 1 with format event."),
    ] = UNSET
    max_bytes: Annotated[
        int, Meta(ge=MIN_BYTES, le=MAX_BYTES, description="Of one POST; a larger event goes by itself.")
    ] = 524_288
    max_event_bytes: Annotated[
        int, Meta(ge=0, description="A larger event is posted without its data, with a link to it; 0: none is.")
    ] = 1_000_000
    retry: Annotated[
        RetrySettings,
        Meta(description="delay (1), the seconds before the first, doubles up to max_delay (60)."),
    ] = RetrySettings()
    secret: Annotated[str | UnsetType, Meta(description="Refused here: it stands in secret_file.")] = UNSET
    tls: Annotated[TlsSettings, Meta(description="ca_file, cert_file, key_file, verify.")] = TlsSettings()
    proxy: Annotated[
        str | bool | ProxyRequest | UnsetType,
        Meta(description="As that of a connection: a name of [proxies], or false for none."),
    ] = UNSET  # type: ignore[assignment]  # UnsetType is in the union, behind Annotated
    secret_file: Annotated[
        str, Meta(description="Holds the secrets, one a line; all of them sign, the first one first.")
    ]

    @property
    def definition(self) -> HookRequest:
        """It as a request says it, without what is no part of a definition: secrets, and whether it begins paused."""
        fields = {name: getattr(self, name) for name in HookRequest.__struct_fields__}
        fields["retry"] = RetryRequest(self.retry.delay, self.retry.max_delay)
        fields["tls"] = TlsRequest(**msgspec.structs.asdict(self.tls))
        fields["proxy"] = declared_proxy(self.proxy)
        fields["secret"] = fields["paused"] = UNSET
        return HookRequest(**fields)


class DeliveryConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where hooks may post to, and who may make them; what [egress] deny names is denied to them, too."""

    allow: Annotated[list[str], doc("Networks and host patterns. Empty: all that is not denied.")] = []
    deny: Annotated[list[str], doc("Networks and host patterns. They beat allow.")] = []
    allow_plain: Annotated[
        bool, doc("Let hooks post to http:// off loopback. What they post travels in the clear.")
    ] = False
    from_api: Annotated[bool, doc("Let the API make and change hooks; false: only those of this file are there.")] = (
        True
    )


def check_hook(hook: HookRequest, *, allow_plain: bool) -> list[Invalid]:
    """Return what is wrong with `hook` beside its shape. No value of a header, and no query, is quoted."""
    wrong = check_hook_url(hook.url, allow_plain=allow_plain)
    for name in hook.workers:
        wrong += [Invalid("/workers", f"{name!r} is not a worker's name")] if check_worker_name(name) else []
    for at, one in enumerate(hook.connections):
        if (isinstance(one, str) and not is_name(one)) or (isinstance(one, int) and not 1 <= one < 2**63):
            wrong.append(Invalid(f"/connections/{at}", "neither the id nor the name of a connection"))
    for at, kind in enumerate(hook.kinds):
        if kind not in Kind.__members__:
            wrong.append(Invalid(f"/kinds/{at}", f"unknown kind; known: {', '.join(Kind.__members__)}"))
    for key, values in (("workers", hook.workers), ("connections", hook.connections), ("kinds", hook.kinds)):
        if len(values) > MAX_IDS:
            wrong.append(Invalid(f"/{key}", f"more than {MAX_IDS}"))
    if AFTER.fullmatch(hook.after) is None:
        wrong.append(Invalid("/after", "must be start, now, or the id of an event"))
    if hook.format == "event" and hook.page_events != 1:
        wrong.append(Invalid("/maxEvents", "is 1 with format event"))
    if 0 < hook.max_event_bytes < MIN_BYTES:
        wrong.append(Invalid("/maxEventBytes", f"must be 0 (never), or at least {MIN_BYTES}"))
    if hook.retry.delay > hook.retry.max_delay:
        wrong.append(Invalid("/retry/delay", "is longer than maxDelay"))
    wrong += check_headers(hook.headers)
    for name, given in hook.headers.items():
        if name.lower().startswith(_OURS) or name.lower() == "user-agent":
            wrong.append(Invalid(f"/headers/{escape_pointer(name)[:100]}", "mooring sets this header itself"))
        elif HIDDEN in ([given] if isinstance(given, str) else given):
            wrong.append(
                Invalid(f"/headers/{escape_pointer(name)[:100]}", "this is how a record shows it: give its value")
            )
    if isinstance(hook.secret, str):
        wrong += [Invalid("/secret", detail) for detail in secret_faults(hook.secret)]
    wrong += check_tls(hook.tls, "/tls")
    if isinstance(hook.proxy, str | ProxyRequest):
        wrong += check_proxy(hook.proxy)
    return wrong


def check_hook_url(url: str, *, allow_plain: bool) -> list[Invalid]:
    """Return what is wrong with the URL that a hook posts to; nothing of its query is quoted."""

    def bad(detail: str) -> list[Invalid]:
        return [Invalid("/url", detail)]

    if len(url) > MAX_URL_CHARS:
        return bad(f"longer than {MAX_URL_CHARS} characters")
    if any(char <= " " or char == "\x7f" for char in url):
        return bad("has a space or a control character")
    try:
        url.encode()
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError:
        return bad("cannot be parsed")
    if parts.scheme not in ("https", "http"):
        return bad("the scheme must be https://")
    if not host or not url.lower().startswith(f"{parts.scheme}://"):
        return bad("a host is required: https://host[:port]/path")
    if "#" in url:
        return bad("a fragment ('#…') is never sent")
    if url.endswith(f"?{HIDDEN}"):
        return bad("this is how a record shows it: give its query, too")
    if "@" in parts.netloc:
        return bad("credentials do not belong in the URL: put them in headers")
    if port == 0 or parts.netloc.endswith(":") or len(host) > 253:
        return bad("the host or the port is not valid")
    if parts.scheme == "http" and not allow_plain and _LOOPBACK.fullmatch(host.rstrip(".").lower()) is None:
        return bad("http:// is for loopback: use https://, or set [delivery] allow_plain")
    return []


def secret_faults(secret: str) -> list[str]:
    """Return what is wrong with a secret, which is not quoted."""
    if not secret.startswith(SECRET_PREFIX):
        return [f"must be {SECRET_PREFIX} and base64"]
    try:
        size = len(base64.b64decode(secret.removeprefix(SECRET_PREFIX).encode("ascii"), validate=True))
    except (binascii.Error, UnicodeEncodeError):
        return [f"must be {SECRET_PREFIX} and base64"]
    if not MIN_SECRET_BYTES <= size <= MAX_SECRET_BYTES:
        return [f"is {size} bytes; {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} are required"]
    return []


def secret_of(key: bytes) -> str:
    """Return the text of a secret."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def secret_key(secret: str) -> bytes:
    """Return the bytes that a checked secret signs with."""
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))


def fingerprint(secret: str) -> str:
    """Return what tells secrets apart and gives none away."""
    return hashlib.sha256(secret_key(secret)).hexdigest()[:16]


def hook_settings_faults(name: str, hook: HookSettings, *, allow_plain: bool) -> list[str]:
    """Return what is wrong with one hook of the configuration, in its spelling."""
    if not is_hook_name(name):
        return [f"hooks.{name}: a hook's name is 1 to 63 letters, digits, '_' or '-'"]
    keys = {field.encode_name: field.name for field in msgspec.structs.fields(HookRequest)}
    keys["maxDelay"] = "max_delay"
    found = [
        Invalid(".".join(keys.get(part, part) for part in one.pointer.strip("/").split("/")), one.detail)
        for one in check_hook(hook.definition, allow_plain=allow_plain)
    ]
    if isinstance(hook.secret, str):
        found.append(Invalid("secret", "a secret does not stand in the configuration: name a secret_file"))
    if hook.proxy is True:
        found.append(Invalid("proxy", "is a name of [proxies], or false for none"))
    if not hook.secret_file.startswith("/"):
        found.append(Invalid("secret_file", "must be an absolute path"))
    return [f"hooks.{name}.{one.pointer}: {one.detail}" for one in found]


def without_nulls(body: Any) -> Any:
    """Return a request's body without what is null: it means the same as being absent; but ``proxy: null``, which is none."""
    if not isinstance(body, dict):
        return body
    found = {key: value for key, value in body.items() if value is not None or key == "proxy"}
    if isinstance(found.get("retry"), dict):
        found["retry"] = {key: value for key, value in found["retry"].items() if value is not None}
    return found
