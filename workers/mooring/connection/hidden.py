"""What of a recipe a record may show: the rest reads ``***``. Pure.

A literal is taken for a secret where its key says so. That is a net, not a promise: who puts a secret under another name, in a
text of its own or in base64, shows it. What is never shown is what ``${secret:NAME}`` stands for.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from mooring.checks import escape_pointer
from mooring.connection.template import OF_ANSWER, Hole, Text, compile_text
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest, RecipeRequest
from mooring.persisting import PLAIN_HEADERS

HIDDEN = "***"
SECRET_WORDS = ("token", "password", "secret", "key", "auth", "signature")

_PLAIN_HTTP_HEADERS = PLAIN_HEADERS | {"accept", "content-type"}

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def is_secret_key(key: str) -> bool:
    """Say whether a word of `key` is, or ends with, one of `SECRET_WORDS`: ``access_token``, ``apiKey``, ``apikey``."""
    return any(word.lower().endswith(SECRET_WORDS) for word in _WORD.findall(key))


def hide(value: Any, pointer: str = "", found: list[str] | None = None) -> Any:
    """Return `value` with each literal under a secret key as ``***``; `found` gets the pointer of each of these."""
    return _hide(value, pointer, [] if found is None else found, secret=False)


def show(request: RecipeRequest | KeepAliveRequest) -> dict[str, Any]:
    """Return `request` as the record shows it: values of headers never, nor literals under secret keys."""
    return _show(request, "", [])


def hidden_places(request: RecipeRequest | KeepAliveRequest, pointer: str) -> list[str]:
    """Return the places of the literals that `show` hides; a header's value with a ``${secret:…}`` in it is none."""
    found: list[str] = []
    _show(request, pointer, found)
    return found


def _show(request: RecipeRequest | KeepAliveRequest, pointer: str, found: list[str]) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(request)
    http = shown.get("renew", {}).get("http", {})
    for name, value in http.get("headers", {}).items():
        texts = [value] if isinstance(value, str) else value
        if name.lower() not in _PLAIN_HTTP_HEADERS and not all(map(_has_secret, texts)):
            found.append(f"{pointer}/renew/http/headers/{escape_pointer(name)[:100]}")
        http["headers"][name] = HIDDEN
    for place, holder, key in (
        *((f"/opening/{index}/send", step, "send") for index, step in enumerate(shown.get("opening", []))),
        *((f"/answers/{index}/send", one, "send") for index, one in enumerate(shown.get("answers", []))),
        ("/send", shown, "send"),
        ("/renew/http/body", http, "body"),
        ("/renew/params", shown.get("renew", {}), "params"),
        ("/catchUp/params", shown.get("catchUp", {}), "params"),
        ("/values", shown, "values"),
    ):
        if key in holder:
            holder[key] = hide(holder[key], pointer + place, found)
    return shown


def _has_secret(text: str) -> bool:
    return any(hole.kind == "secret" for hole in compile_text(text, "", [], OF_ANSWER).holes)


def _hide(value: Any, pointer: str, found: list[str], *, secret: bool) -> Any:
    if isinstance(value, dict):
        return {
            key: _hide(
                item, f"{pointer}/{escape_pointer(str(key))[:100]}", found, secret=secret or is_secret_key(str(key))
            )
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_hide(item, f"{pointer}/{index}", found, secret=secret) for index, item in enumerate(value)]
    if not secret or value is None or isinstance(value, bool) or value == "":
        return value
    shown = _hide_text(value) if isinstance(value, str) else HIDDEN
    if shown != value:
        found.append(pointer)
    return shown


def _hide_text(text: str) -> str:
    """Hide the literals round the holes; round a ``${secret:…}`` they are words such as ``Bearer``, and stay."""
    wrong: list[Invalid] = []
    template: Text = compile_text(text, "", wrong, OF_ANSWER)
    if wrong:
        return HIDDEN
    plain = any(hole.kind == "secret" for hole in template.holes)
    made = []
    for part in template.parts:
        if isinstance(part, Hole):
            fallback = "" if part.fallback is None else f"|{HIDDEN if part.fallback else ''}"
            made.append(f"${{{part.text}{fallback}}}")
        else:
            made.append(part.replace("${", "$${") if plain else HIDDEN)
    return "".join(made)
