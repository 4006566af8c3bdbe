"""From a create request to what its connection runs with: the handler's attributes and a preset merged in, and all of it checked.

Every floor asks here, so that what the API takes, the worker can run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET

from mooring import staying
from mooring.changes import Changes, changed, with_clocks
from mooring.checks import HeaderValue
from mooring.connection import hidden
from mooring.connection.fragment import Fragment, fill_fragment, parse_fragment
from mooring.connection.kept_rules import Compiled, KeptRequest, compile_kept, secrets_of_http
from mooring.connection.recipe_compiler import Recipes
from mooring.connection.requests import Protocol, compile_requests
from mooring.connection.shipped import read_preset, shipped_presets
from mooring.errors import Invalid, InvalidRequest
from mooring.handler_options import blame_handler, merge
from mooring.kept_options import RecipeRequest, ReconnectRequest, RequestsRequest
from mooring.link.record import AskedCreated
from mooring.options import ConnectionOptions, ConnectionRequest, check_request, effective

HANDLER_RENEW_S = 10.0  # as `renew.timeout`

RECIPES = Recipes()
"""Of this process: ten thousand connections to one feed share one recipe."""
_compiled: WeakValueDictionary[bytes, Compiled] = WeakValueDictionary()  # likewise, by the digest of all that is asked
_MAX_SHARED = 256
_asked_recipes: dict[bytes, RecipeRequest] = {}


class Known(msgspec.Struct, frozen=True):
    """What of the configuration a recipe may name: ``[recipes]`` (name → path) and ``[functions]`` (name → ``module:attribute``).

    `in_memory`: so is the journal: nothing can persist.
    """

    recipes: Mapping[str, str] = {}
    functions: Mapping[str, str] = {}
    in_memory: bool = False


NOTHING = Known()


def resolve(request: ConnectionRequest, handler: object | None = None, known: Known = NOTHING) -> ConnectionOptions:
    """Merge `request` with the attributes of `handler` and with the preset that it names, and check the result.

    Raises:
        InvalidRequest: If anything is not valid.
    """
    renews = handler is not None and getattr(handler, "renew", None) is not None
    merged = merge(request, handler)
    wrong = check_request(merged, fills=renews)
    filled, of_fragment = expand(merged, known, wrong)
    wrong += _persisted_nowhere(filled, known)
    if not wrong:
        compile_asked(filled, wrong, known, of_fragment=of_fragment, handler_renews=renews)
    if wrong:
        raise InvalidRequest([blame_handler(error, request, handler) for error in wrong])
    shown: Any = merged.recipe if isinstance(merged.recipe, str) else None
    if isinstance(merged.recipe, RecipeRequest) and merged.recipe.preset is not UNSET:
        shown = hidden.show(merged.recipe)
    options = effective(filled)
    if isinstance(options.recipe, RecipeRequest):
        options = msgspec.structs.replace(options, recipe=_same(options.recipe))
    return msgspec.structs.replace(options, recipe_shown=shown, handler_renews=renews)


def _same(recipe: RecipeRequest) -> RecipeRequest:
    """Return the one object that stands for all recipes that are asked for in the same words."""
    if len(_asked_recipes) >= _MAX_SHARED:
        _asked_recipes.clear()
    return _asked_recipes.setdefault(msgspec.json.encode(recipe), recipe)


def resolve_checked(request: ConnectionRequest, known: Known) -> ConnectionOptions:
    """As `resolve`, of a request without a handler that the service has checked.

    Raises:
        InvalidRequest: If what it names means something else here.
    """
    return effective(request) if is_simple(request) else resolve(request, known=known)


def is_simple(request: ConnectionRequest) -> bool:
    """Say whether `request` names nothing that has to be read, compiled or filled in: that of most connections."""
    return (
        request.handler is None
        and request.recipe is UNSET
        and request.reconnect is UNSET
        and request.keep_alive is UNSET
        and request.requests is UNSET
        and request.data_timeout is UNSET
        and request.when_down is UNSET
        and request.queue_ttl is UNSET
        and (request.headers is UNSET or not _has_templates(request.headers))
    )


def _has_templates(headers: Mapping[str, HeaderValue]) -> bool:
    return any("${" in text for value in headers.values() for text in ([value] if isinstance(value, str) else value))


def check_asked(request: ConnectionRequest, known: Known) -> list[Invalid]:
    """Return everything that is wrong with `request`, as far as it can be told without its handler."""
    if is_simple(request):
        return check_request(request)
    fills = request.handler is not None
    wrong = check_request(request, fills=fills)
    filled, of_fragment = expand(request, known, wrong)
    wrong += _persisted_nowhere(filled, known)
    if fills and filled.reconnect is UNSET:
        filled = msgspec.structs.replace(filled, reconnect=True)  # the handler may say so
    if not wrong:
        compile_asked(filled, wrong, known, of_fragment=of_fragment, handler_renews=fills)
    return wrong


def _persisted_nowhere(request: ConnectionRequest, known: Known) -> list[Invalid]:
    if known.in_memory and isinstance(request.reconnect, ReconnectRequest) and request.reconnect.persist is True:
        return [Invalid("/reconnect/persist", "journal.store is memory: nothing outlives the service")]
    return []


def check_clocks(options: ConnectionOptions, changes: Changes) -> tuple[ConnectionOptions, list[Invalid]]:
    """Return what a connection that is not kept runs with after changes of its clocks, and what is wrong with them."""
    wrong = check_request(changed(ConnectionRequest(url="ws://x/"), changes))
    fresh = with_clocks(options, changes)
    if not wrong:
        _compile(fresh, wrong)
    return fresh, wrong


def compile_asked(
    request: ConnectionRequest,
    wrong: list[Invalid],
    known: Known,
    *,
    of_fragment: tuple[str, ...] = (),
    handler_renews: bool = False,
) -> Compiled:
    """Return what a request without names of presets means; what is wrong is added to `wrong`."""
    recipe = request.recipe if isinstance(request.recipe, RecipeRequest) else UNSET
    compiled = compile_kept(
        KeptRequest(
            url=request.url,
            headers={} if request.headers is UNSET else request.headers,
            data_type="text" if request.data_type is UNSET else request.data_type,
            reconnect=False if request.reconnect is UNSET else request.reconnect,
            recipe=recipe,
            keep_alive=request.keep_alive,
            data_timeout=request.data_timeout,
            requests=request.requests,
            when_down=request.when_down,
            queue_ttl=request.queue_ttl,
            of_fragment=of_fragment,
            handler_renews=handler_renews,
        ),
        RECIPES,
        wrong,
    )
    wrong += [
        Invalid(place, f"[functions] of the configuration has no {name!r}")
        for name, place in compiled.uses.functions.items()
        if name not in known.functions
    ]
    return compiled


def expand(request: ConnectionRequest, known: Known, wrong: list[Invalid]) -> tuple[ConnectionRequest, tuple[str, ...]]:
    """Return `request` with the preset, or the file of ``[recipes]``, that it names; and the keys of the recipe that came so."""
    asked = request.recipe
    if isinstance(asked, str):
        name, values, place = asked, {}, "/recipe"
    elif isinstance(asked, RecipeRequest) and not isinstance(asked.preset, msgspec.UnsetType):
        name, place = asked.preset, "/recipe/preset"
        values = {} if isinstance(asked.values, msgspec.UnsetType) else asked.values
        if set(msgspec.to_builtins(asked)) - {"preset", "values"}:
            wrong.append(Invalid("/recipe", "a preset stands alone with its values"))
            return request, ()
    else:
        return request, ()
    before = len(wrong)
    fragment = fill_fragment(_fragment(name, known, place, wrong), values, "/recipe/values", wrong)
    if len(wrong) > before:
        return msgspec.structs.replace(request, recipe=RecipeRequest()), ()
    recipe = fragment.recipe if isinstance(fragment.recipe, RecipeRequest) else RecipeRequest()
    under = {
        key: value
        for key in ("keep_alive", "requests", "protocols", "data_type")
        if getattr(request, key) is UNSET and (value := getattr(fragment, key)) is not UNSET
    }
    if request.reconnect is not UNSET and not isinstance(fragment.reconnect, msgspec.UnsetType):
        under["reconnect"] = staying.overlay(fragment.reconnect, request.reconnect)
    return msgspec.structs.replace(request, recipe=recipe, **under), tuple(msgspec.to_builtins(recipe))


def _fragment(name: str, known: Known, place: str, wrong: list[Invalid]) -> Fragment:
    path = known.recipes.get(name)
    data = read_preset(name) if path is None else None
    if path is not None:
        try:
            data = Path(path).read_bytes()
        except OSError as exc:
            wrong.append(Invalid(place, f"the file of [recipes] {name} cannot be read: {exc.strerror}"))
            return Fragment()
    if data is None:
        there = ", ".join(sorted({*known.recipes, *shipped_presets()}))
        wrong.append(Invalid(place, f"no recipe of this name; there are {there}"))
        return Fragment()
    found: list[Invalid] = []
    fragment = parse_fragment(data, found)
    wrong += [Invalid(place, f"{name}{one.pointer}: {one.detail}") for one in found]
    return fragment


def shown_of(options: ConnectionOptions) -> AskedCreated | None:
    """Return what the record shows of `options`; None: they are about the socket alone."""
    if not options.converses and options.requests is None:
        return None
    recipe = options.recipe_shown
    if recipe is None and options.recipe is not None:
        recipe = options.recipe if isinstance(options.recipe, str) else hidden.show(options.recipe)
    return AskedCreated(
        recipe=recipe,
        keep_alive=None if options.keep_alive is None else hidden.show(options.keep_alive),
        data_timeout_s=options.data_timeout_s,
        when_silent=options.when_silent,
        requests=None if options.requests is None else msgspec.to_builtins(options.requests),
    )


def requests_of(options: ConnectionOptions) -> Protocol | None:
    """Return what the ``requests`` of `options`, which were checked, mean."""
    return None if options.requests is None else _protocol(msgspec.json.encode(options.requests))


_decode = msgspec.json.Decoder(str | RequestsRequest).decode


@lru_cache(maxsize=256)  # ten thousand connections of one kind share one
def _protocol(asked: bytes) -> Protocol | None:
    return compile_requests(_decode(asked), "/requests", [])


class SecretUse(msgspec.Struct, frozen=True):
    """One secret that is asked for, and where it would go; `url` None: that is known at an attempt alone."""

    name: str
    place: str
    url: str | None
    addresses: list[str] = []


def secrets_used(options: ConnectionOptions) -> list[SecretUse]:
    """Return the secrets that `options`, which were checked, ask for."""
    compiled = compiled_of(options)
    places = compiled.uses.secrets
    url = options.url if compiled.url is None or not any(compiled.url.text.holes) else None
    found = [SecretUse(name, places.get(name, "/recipe"), url, options.addresses) for name in compiled.own_secrets]
    renew = None if compiled.recipe is None else compiled.recipe.renew
    if renew is not None and renew.http is not None:
        http = renew.http
        url = None if any(http.url.text.holes) else http.url.sample()
        found += [SecretUse(name, "/recipe/renew/http", url) for name in secrets_of_http(http)]
    return found


def opening_s(request: ConnectionRequest, known: Known) -> float:
    """Return how long `request`, which was checked, may take beside its dial: to fetch values, and to open."""
    if request.recipe is UNSET:
        return 0.0
    return opening_time_s(effective(expand(request, known, [])[0]))


def opening_time_s(options: ConnectionOptions) -> float:
    """The same, of `options`."""
    renews_s = HANDLER_RENEW_S if options.handler_renews else 0.0
    if not isinstance(options.recipe, RecipeRequest):
        return renews_s
    recipe = RECIPES.get(options.recipe, "/recipe", [])
    return recipe.opening_timeout_s + (renews_s if recipe.renew is None else recipe.renew.timeout_s)


def compiled_of(options: ConnectionOptions) -> Compiled:
    """Return what `options`, which were checked, mean."""
    return _compile(options, [])


def _compile(options: ConnectionOptions, wrong: list[Invalid]) -> Compiled:
    request = _asked_of(options)
    content = hashlib.blake2b(msgspec.json.encode(request), digest_size=16).digest()  # headers are secrets
    found = _compiled.get(content)
    if found is None:
        before = len(wrong)
        found = compile_kept(request, RECIPES, wrong)
        if len(wrong) == before:
            _compiled[content] = found
    return found


def _asked_of(options: ConnectionOptions) -> KeptRequest:
    headers: dict[str, list[str]] = {}
    for name, value in options.headers:
        headers.setdefault(name, []).append(value)
    return KeptRequest(
        url=options.url,
        headers=headers,
        data_type=options.data_type,
        reconnect=options.reconnect is not None,
        recipe=options.recipe if isinstance(options.recipe, RecipeRequest) else UNSET,
        keep_alive=options.keep_alive or UNSET,
        requests=options.requests or UNSET,
        handler_renews=options.handler_renews,
    )
