"""What the options of a kept connection must be to each other, where each of them is valid by itself. Pure.

The names in a URL must be given by the recipe, a queue needs a next socket, what is persisted holds no secret. Each place is named
as in the create body.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from mooring.checks import HeaderValue, check_url, escape_pointer
from mooring.connection.hidden import hidden_places
from mooring.connection.keep_alive import KeepAlive, compile_keep_alive
from mooring.connection.recipe import EMPTY, Recipe, RenewHttp, Uses
from mooring.connection.recipe_compiler import Recipes
from mooring.connection.requests import Protocol, compile_requests
from mooring.connection.template import TextTemplate, compile_header, compile_url
from mooring.errors import Invalid
from mooring.kept_options import KeepAliveRequest, RecipeRequest, ReconnectRequest, RequestsRequest
from mooring.persisting import PLAIN_HEADERS
from mooring.staying import check_reconnect

MIN_DURATION_S, MAX_DURATION_S = 0.1, 86_400.0  # of dataTimeout and queueTtl


class KeptRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What of a create body matters here, presets and the handler's attributes merged in.

    `of_fragment`: keys of the recipe that a preset or a file of ``[recipes]`` has brought; `declared`: it stands in
    mooring.toml, which is the operator's own; `handler_renews`: the handler has a ``renew``, which may give any value.
    """

    url: str
    headers: Mapping[str, HeaderValue] = msgspec.field(default_factory=dict)
    data_type: str = "text"
    reconnect: bool | ReconnectRequest = False
    recipe: RecipeRequest | UnsetType = UNSET
    keep_alive: KeepAliveRequest | UnsetType = UNSET
    requests: str | RequestsRequest | UnsetType = UNSET
    data_timeout: float | UnsetType = UNSET
    when_down: Literal["fail", "queue"] | UnsetType = UNSET
    queue_ttl: float | UnsetType = UNSET
    of_fragment: Collection[str] = ()
    declared: bool = False
    handler_renews: bool = False


class Compiled(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """What the connection runs with. `recipe` None: it has none. `url` None: the text is taken as it is."""

    url: TextTemplate | None
    headers: tuple[tuple[str, TextTemplate], ...]
    recipe: Recipe | None
    keep_alive: KeepAlive | None
    requests: Protocol | None
    uses: Uses

    @property
    def renewable(self) -> bool:
        """Something may give another credential after a refusal, but for a handler's ``renew``, which is not seen here."""
        return bool(self.uses.secrets) or (self.recipe is not None and self.recipe.renew is not None)

    @property
    def own_secrets(self) -> list[str]:
        """The secrets that go over the socket, or into its handshake."""
        needs = [] if self.url is None else [self.url.needs]
        needs += [template.needs for _, template in self.headers]
        if self.recipe is not None:
            needs += [step.send.needs for step in self.recipe.opening if step.send is not None]
            needs += [answer.send.needs for answer in self.recipe.answers]
        if self.keep_alive is not None and self.keep_alive.send is not None:
            needs.append(self.keep_alive.send.needs)
        return sorted({name for one in needs for name in one.secrets})


NOTHING_ASKED: Final = Compiled(url=None, headers=(), recipe=None, keep_alive=None, requests=None, uses=Uses())
"""Of a connection that was asked for something once, and is not any more."""


def secrets_of_http(http: RenewHttp) -> list[str]:
    """Return the secrets that ``renew.http`` sends."""
    needs = [http.url.needs, *(template.needs for _, template in http.headers)]
    needs += [] if http.body is None else [http.body.needs]
    return sorted({name for one in needs for name in one.secrets})


def compile_kept(request: KeptRequest, recipes: Recipes, wrong: list[Invalid]) -> Compiled:
    """Return what `request` means; everything that is wrong with it is added to `wrong`.

    `Compiled.uses` has the secrets and functions that must exist: who knows them judges them.
    """
    if isinstance(request.reconnect, ReconnectRequest):
        wrong += check_reconnect(request.reconnect)
    recipe = None if isinstance(request.recipe, UnsetType) else recipes.get(request.recipe, "/recipe", wrong)
    keep_alive = (
        None
        if isinstance(request.keep_alive, UnsetType)
        else compile_keep_alive(request.keep_alive, "/keepAlive", wrong)
    )
    requests = (
        None if isinstance(request.requests, UnsetType) else compile_requests(request.requests, "/requests", wrong)
    )
    uses = Uses()
    has_recipe = recipe is not None or request.handler_renews
    url = compile_url(request.url, "/url", wrong) if has_recipe else None
    if url is None:
        wrong += check_url(request.url)
    else:
        uses.add(url.needs, "/url")
        sample = url.sample()
        wrong += [] if sample is None else check_url(sample)
    headers = []
    for name, value in request.headers.items():
        place = f"/headers/{escape_pointer(name)[:100]}"
        for text in [value] if isinstance(value, str) else value:
            made = compile_header(text, place, wrong, recipe=has_recipe)
            uses.add(made.needs, place)
            headers.append((name, made))
    for used in (recipe, keep_alive):
        if used is not None:
            _merge(uses, used.uses)
    compiled = Compiled(
        url=url, headers=tuple(headers), recipe=recipe, keep_alive=keep_alive, requests=requests, uses=uses
    )
    wrong += _names(request, compiled)
    wrong += _data_type(request, compiled)
    wrong += _needs_reconnect(request)
    wrong += _persist(request, compiled)
    for key, duration in (("dataTimeout", request.data_timeout), ("queueTtl", request.queue_ttl)):
        if isinstance(duration, UnsetType) or (duration == 0 and key == "dataTimeout"):
            continue
        if not MIN_DURATION_S <= duration <= MAX_DURATION_S:
            zero = "0 (never), or " if key == "dataTimeout" else ""
            wrong.append(Invalid(f"/{key}", f"must be {zero}{MIN_DURATION_S:g} to {MAX_DURATION_S:g} seconds"))
    return compiled


def _merge(uses: Uses, more: Uses) -> None:
    for mine, its in ((uses.names, more.names), (uses.secrets, more.secrets), (uses.functions, more.functions)):
        for name, place in its.items():
            mine.setdefault(name, place)
    uses.json.extend(more.json)


def _names(request: KeptRequest, compiled: Compiled) -> list[Invalid]:
    """Every ``${name}`` must be given by somebody; who returns what it likes may give any."""
    recipe = compiled.recipe or EMPTY
    if recipe.gives_any_name or request.handler_renews:
        return []
    return [
        Invalid(place, f"{name}: neither remember nor renew gives such a value")
        for name, place in compiled.uses.names.items()
        if name not in recipe.given
    ]


def _data_type(request: KeptRequest, compiled: Compiled) -> list[Invalid]:
    if request.data_type != "blob":
        return []
    wrong = [Invalid(place, 'looks into JSON, and the data type is "blob"') for place in compiled.uses.json]
    if compiled.requests is not None:
        wrong.append(Invalid("/requests", 'look into JSON, and the data type is "blob"'))
    return wrong


def _needs_reconnect(request: KeptRequest) -> list[Invalid]:
    if request.reconnect is not False:
        return []
    given = {"/whenDown": request.when_down == "queue", "/queueTtl": request.queue_ttl is not UNSET}
    if not isinstance(request.recipe, UnsetType):
        given["/recipe/reconnectWhen"] = bool(request.recipe.reconnect_when) and (
            "reconnectWhen" not in request.of_fragment
        )
        given["/recipe/catchUp"] = request.recipe.catch_up is not UNSET and "catchUp" not in request.of_fragment
    return [Invalid(place, "needs reconnect") for place, is_given in given.items() if is_given]


def _persist(request: KeptRequest, compiled: Compiled) -> list[Invalid]:
    """What is written to disk holds no secret: each is read anew from ``[secrets]``, by its name."""
    if request.declared or not isinstance(request.reconnect, ReconnectRequest) or request.reconnect.persist is not True:
        return []
    wrong = []
    for name, template in compiled.headers:
        if not template.needs.secrets and name.lower() not in PLAIN_HEADERS:
            place = f"/headers/{escape_pointer(name)[:100]}"
            wrong.append(Invalid(place, "persist writes it to disk: the value must have a ${secret:NAME}"))
    places = [] if isinstance(request.recipe, UnsetType) else hidden_places(request.recipe, "/recipe")
    if not isinstance(request.keep_alive, UnsetType):
        places += hidden_places(request.keep_alive, "/keepAlive")
    wrong += [Invalid(place, "persist writes it to disk: use ${secret:NAME}") for place in places]
    return wrong
