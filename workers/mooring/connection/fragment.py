"""Recipes by name: a fragment of a create body in a file, shipped as a preset or named in ``[recipes]``. Pure.

A fragment declares the `values` that it leaves open; a request fills them, and what comes out is a recipe like any other. Filling is
of text, before anything is compiled: so a value may be a ``${secret:NAME}``, and may stand in a matcher, too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mooring import json_text
from mooring.checks import escape_pointer
from mooring.connection.keep_alive import compile_keep_alive
from mooring.connection.recipe import EMPTY
from mooring.connection.recipe_compiler import compile_recipe
from mooring.connection.requests import compile_requests
from mooring.connection.template import PLACEHOLDER, Kind, compile_text, is_name
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest, RecipeRequest, ReconnectRequest, RequestsRequest
from mooring.staying import check_reconnect

MAX_FRAGMENT_BYTES = 256 * 1024  # recipe and heartbeat have 64 KiB each; the rest is the text of a person
MAX_VALUES_BYTES = 64 * 1024  # as a recipe
_IN_VALUES: frozenset[Kind] = frozenset({"secret"})


class Fragment(
    msgspec.Struct, forbid_unknown_fields=True, rename="camel", frozen=True, kw_only=True, omit_defaults=True
):
    """What a preset brings into a create body. `values`: name → what it is, for a reader."""

    recipe: RecipeRequest | UnsetType = UNSET
    keep_alive: KeepAliveRequest | UnsetType = UNSET
    requests: str | RequestsRequest | UnsetType = UNSET
    protocols: list[str] | UnsetType = UNSET
    data_type: Literal["text", "blob", "object", "auto"] | UnsetType = UNSET
    reconnect: bool | ReconnectRequest | UnsetType = UNSET
    values: dict[str, str] = msgspec.field(default_factory=dict)


def parse_fragment(data: bytes, wrong: list[Invalid]) -> Fragment:
    """Return the fragment in the file's bytes; what is not valid, also inside of it, is added to `wrong`."""
    if len(data) > MAX_FRAGMENT_BYTES:
        wrong.append(Invalid("", f"{len(data)} bytes; at most {MAX_FRAGMENT_BYTES} are allowed"))
        return Fragment()
    try:
        fragment = msgspec.json.decode(data, type=Fragment)
    except msgspec.ValidationError as exc:
        wrong.append(_invalid(exc))
        return Fragment()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        wrong.append(Invalid("", f"is not JSON: {exc}"))
        return Fragment()
    for name in fragment.values:
        if not is_name(name):
            wrong.append(Invalid(f"/values/{escape_pointer(name)[:100]}", "is not a name"))
    names: dict[str, str] = {}
    recipe = EMPTY
    if isinstance(fragment.recipe, RecipeRequest):
        if fragment.recipe.preset is not UNSET:
            wrong.append(Invalid("/recipe/preset", "a fragment is no other one's filling"))
            return fragment
        recipe = compile_recipe(fragment.recipe, "/recipe", wrong)
        names |= recipe.uses.names
    if isinstance(fragment.keep_alive, KeepAliveRequest):
        names |= compile_keep_alive(fragment.keep_alive, "/keepAlive", wrong).uses.names
    if not isinstance(fragment.requests, UnsetType):
        compile_requests(fragment.requests, "/requests", wrong)
    if isinstance(fragment.reconnect, ReconnectRequest):
        wrong += check_reconnect(fragment.reconnect)
    wrong += [
        Invalid(place, f"{name}: neither values nor remember nor renew gives it")
        for name, place in names.items()
        if name not in recipe.given and name not in fragment.values and not recipe.gives_any_name
    ]
    return fragment


def fill_fragment(fragment: Fragment, values: Mapping[str, Any], pointer: str, wrong: list[Invalid]) -> Fragment:
    """Return `fragment` with its open values filled in.

    Args:
        pointer: Of `values`, for what is wrong with them: one that is missing or not declared, one that holds another ``${…}``
            than a secret.
    """
    before = len(wrong)
    for name in fragment.values:
        if name not in values:
            wrong.append(Invalid(f"{pointer}/{escape_pointer(name)}", f"is missing: {fragment.values[name]}"))
    for name, value in values.items():
        place = f"{pointer}/{escape_pointer(name)[:100]}"
        if name not in fragment.values:
            wrong.append(
                Invalid(place, f"is not one of {', '.join(sorted(fragment.values)) or 'its values: it has none'}")
            )
        else:
            _check_value(value, place, wrong)
    if len(wrong) == before:
        try:
            size = len(json_text.encode(values))
        except (TypeError, RecursionError, ValueError):
            wrong.append(Invalid(pointer, "is not JSON"))
        else:
            if size > MAX_VALUES_BYTES:
                wrong.append(Invalid(pointer, f"{size} bytes as JSON; at most {MAX_VALUES_BYTES} are allowed"))
    if len(wrong) > before or not values:
        return fragment
    filled = {
        key: item if key == "values" else _fill(item, values) for key, item in msgspec.to_builtins(fragment).items()
    }
    try:
        return msgspec.convert(filled, Fragment)
    except msgspec.ValidationError as exc:  # a value of a type that cannot stand where it is asked for
        wrong.append(Invalid(pointer, f"do not fit: {exc}"))
        return fragment


def _check_value(value: Any, pointer: str, wrong: list[Invalid]) -> None:
    """A value is literal, but for secrets. No stack of ours grows with a caller's nesting."""
    level = [value]
    for _ in range(100):
        for text in (item for item in level if isinstance(item, str)):
            compile_text(text, pointer, wrong, _IN_VALUES)
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    wrong.append(Invalid(pointer, "is nested too deeply"))


def _fill(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, dict):
        return {key: _fill(item, values) for key, item in node.items()}
    if isinstance(node, list):
        return [_fill(item, values) for item in node]
    if not isinstance(node, str):
        return node
    whole = PLACEHOLDER.fullmatch(node)
    if whole is not None and (name := _name(whole[0])) in values:
        return values[name]

    def text_of(match: re.Match[str]) -> str:
        name = _name(match[0])
        if name not in values:
            return match[0]
        value = values[name]
        return value if isinstance(value, str) else json_text.encode(value).decode()

    return PLACEHOLDER.sub(text_of, node)


def _name(placeholder: str) -> str:
    """Return the name in ``${name}`` or ``${name|text}``; of what is no such thing, something that is no name."""
    return placeholder[2:].removesuffix("}").partition("|")[0] if placeholder.startswith("${") else ""


def _invalid(exc: msgspec.ValidationError) -> Invalid:
    detail, _, path = str(exc).partition(" - at `$")
    path = re.sub(r"\[(\d+)\]", r".\1", path.rstrip("`").replace("[...]", ".…"))  # it does not say which key it was
    return Invalid(path.replace(".", "/"), detail)
