"""``${secret:NAME}``: whether all that are asked for may be used; and in the headers of a connection that has no recipe, the values
for one attempt.

The options keep the text as it was asked for; what is filled in lives as long as the attempt.
"""

from __future__ import annotations

import msgspec

from mooring.checks import escape_pointer
from mooring.connection.asked import SecretUse, secrets_used
from mooring.connection.template import TextTemplate, Unfilled, Values, compile_header
from mooring.errors import ErrCode, Invalid, InvalidRequest
from mooring.options import ConnectionOptions
from mooring.wire.failure import failed
from mooring.wire.secret_table import NoSecret, Secrets, places_of

Headers = list[tuple[str, str]]


def has_templates(headers: Headers) -> bool:
    """Say whether anything of `headers` may have to be filled in, or is a literal ``${``."""
    return any("${" in value for _, value in headers)


def secrets_of(headers: Headers) -> dict[str, str]:
    """Return the names of the secrets that `headers` need, each with the pointer of its first place."""
    found: dict[str, str] = {}
    for name, template in _compiled(headers, []):
        for secret in sorted(template.needs.secrets):
            found.setdefault(secret, _place(name))
    return found


def check_secrets(options: ConnectionOptions, secrets: Secrets, *, declared: bool) -> None:
    """Check, before anything is begun, what `options` need: known, allowed to go there, and to be had.

    Raises:
        InvalidRequest: If a ``${secret:…}`` is malformed, unknown, or has no value now.
        SecretNotAllowed: If one is not bound to where this goes.
    """
    wrong: list[Invalid] = []
    _compiled(options.headers, wrong)
    uses = secrets_used(options) if options.converses else []
    needed = dict(secrets_of(options.headers)) if not uses else {use.name: use.place for use in reversed(uses)}
    for name, place in needed.items():
        unknown = secrets.unknown(name)
        if unknown is not None:
            wrong.append(Invalid(place, unknown))
    if wrong:
        raise InvalidRequest(wrong)
    if not declared:
        for use in uses or [SecretUse(name, place, options.url, options.addresses) for name, place in needed.items()]:
            if use.url is not None:  # else where it goes is known at an attempt
                secrets.check_bound(use.name, places_of(use.url, use.addresses, options.proxy))
    for name, place in needed.items():
        try:
            secrets.read(name)
        except NoSecret as exc:
            wrong.append(Invalid(place, f"the secret {name!r} cannot be had: {exc}"))
    if wrong:
        raise InvalidRequest(wrong)


def with_secrets(options: ConnectionOptions, secrets: Secrets, *, declared: bool) -> ConnectionOptions:
    """Return `options` for one attempt, with the headers as they go on the wire.

    Raises:
        DialFailed: If a secret may not be sent there (106), or cannot be had (113); the text names it.
    """
    values = Values()
    needed = secrets_of(options.headers)
    if needed:
        places = places_of(options.url, options.addresses, options.proxy)
        values.secrets = secrets.values(needed, places, declared=declared)
    headers: Headers = []
    for name, template in _compiled(options.headers, []):
        value = template.fill(values)
        if isinstance(value, Unfilled):
            raise failed(ErrCode.RENEW_FAILED, f"the header {name} cannot be filled: {value}")
        headers.append((name, value))
    return msgspec.structs.replace(options, headers=headers)


def _compiled(headers: Headers, wrong: list[Invalid]) -> list[tuple[str, TextTemplate]]:
    return [(name, compile_header(text, _place(name), wrong, recipe=False)) for name, text in headers]


def _place(name: str) -> str:
    return f"/headers/{escape_pointer(name)[:100]}"
