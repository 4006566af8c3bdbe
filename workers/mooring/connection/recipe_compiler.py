"""From a recipe as it was asked for to a `Recipe`, or to everything that is wrong with it. Pure.

What a recipe asks of its surroundings (data type, names, secrets, functions) is not judged here but listed in its `Uses`, for those
who know them. `Recipes` makes equal recipes one object: ten thousand connections to one feed share it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import msgspec
from msgspec import UNSET, UnsetType

from mooring.checks import check_headers, check_url, escape_pointer
from mooring.connection.matcher import Matcher, compile_matcher
from mooring.connection.pointer import Pointer, parse_pointer
from mooring.connection.recipe import (
    EMPTY,
    Answer,
    CatchUp,
    Forget,
    Recipe,
    ReconnectWhen,
    Remember,
    Renew,
    RenewHttp,
    Step,
    Uses,
)
from mooring.connection.template import (
    OF_ANSWER,
    OF_DIAL,
    OF_MESSAGE,
    Kind,
    MessageTemplate,
    compile_header,
    compile_message,
    compile_outgoing,
    compile_url,
    is_name,
)
from mooring.errors import Invalid
from mooring.kept_options import (
    AnswerRequest,
    CatchUpRequest,
    MatcherRequest,
    RecipeRequest,
    ReconnectWhenRequest,
    RenewHttpRequest,
    RenewRequest,
    StepRequest,
)
from mooring.parameters import check_params

MAX_RECIPE_BYTES = 64 * 1024  # as JSON: data that a person wrote
MAX_STEPS = MAX_ANSWERS = MAX_REMEMBERED = MAX_RULES = 16  # each is asked for each frame
MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 300.0
MAX_CATCH_UP_S = 600.0
MAX_REUSE_S = 86_400.0

_T = TypeVar("_T")
_NO_NAME = "is not a name: letters, digits, '_', '-', '.'; not nextId or socket"


def compile_recipe(request: RecipeRequest, pointer: str, wrong: list[Invalid]) -> Recipe:
    """Return the recipe that `request` describes; what is not valid is added to `wrong`. A preset must be filled in before."""
    if not check_size(request, pointer, MAX_RECIPE_BYTES, wrong):
        return EMPTY
    return _Compiler(request, pointer, wrong).recipe()


def check_size(request: msgspec.Struct, pointer: str, max_bytes: int, wrong: list[Invalid]) -> bool:
    """Say whether `request` is JSON that the link can carry, no deeper and no larger than is allowed."""
    try:
        found = check_params({"": msgspec.to_builtins(request, builtin_types=(bytes, bytearray))}, pointer)
        size = 0 if found else len(msgspec.json.encode(request))
    except (TypeError, RecursionError):
        found, size = [Invalid(pointer, "holds what is not a JSON value")], 0
    if size > max_bytes:
        found = [Invalid(pointer, f"{size} bytes as JSON; at most {max_bytes} are allowed")]
    wrong += found
    return not found


def check_duration(value: float, least: float, most: float, pointer: str, wrong: list[Invalid]) -> None:
    """Note a duration that is out of its bounds."""
    if not least <= value <= most:  # also refuses NaN
        wrong.append(Invalid(pointer, f"must be {least:g} to {most:g} seconds"))


class Recipes:
    """Equal requests share one `Recipe`, as long as somebody holds it."""

    def __init__(self) -> None:
        self._by_content: WeakValueDictionary[bytes, Recipe] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_content)

    def get(self, request: RecipeRequest, pointer: str, wrong: list[Invalid]) -> Recipe:
        """As `compile_recipe`."""
        if not check_size(request, pointer, MAX_RECIPE_BYTES, wrong):
            return EMPTY
        content = hashlib.blake2b(msgspec.json.encode(request, order="deterministic"), digest_size=16).digest()
        found = self._by_content.get(content)
        if found is None:
            before = len(wrong)
            found = compile_recipe(request, pointer, wrong)
            if len(wrong) == before:
                self._by_content[content] = found
        return found


class _Compiler:
    """Goes through one request, and gathers what is wrong and what it uses."""

    def __init__(self, request: RecipeRequest, pointer: str, wrong: list[Invalid]) -> None:
        self._request = request
        self._pointer = pointer
        self._wrong = wrong
        self._uses = Uses()

    def recipe(self) -> Recipe:
        request = self._request
        if request.preset is not UNSET or request.values is not UNSET:
            self._bad("/preset", "stands alone with its values")
        renew = None if request.renew is UNSET else self._renew(request.renew)
        given = {*request.remember, *(name for name, _ in (renew.http.values if renew and renew.http else ()))}
        recipe = Recipe(
            opening=tuple(self._opening()),
            answers=tuple(self._each("answers", request.answers, MAX_ANSWERS, self._answer)),
            remember=tuple(self._remember()),
            forget=tuple(
                Forget(one.name, self._matcher(one.when, f"/forget/{index}/when"))
                for index, one in self._bounded("forget", request.forget, MAX_REMEMBERED)
            ),
            renew=renew,
            resumed_when=self._maybe(request.resumed_when, "/resumedWhen"),
            reconnect_when=tuple(self._each("reconnectWhen", request.reconnect_when, MAX_RULES, self._reconnect_when)),
            stop_when=tuple(self._each("stopWhen", request.stop_when, MAX_RULES, self._matcher)),
            catch_up=None if request.catch_up is UNSET else self._catch_up(request.catch_up),
            given=frozenset(given),
            uses=self._uses,
        )
        for index, forgotten in enumerate(request.forget):
            if forgotten.name not in request.remember:
                self._bad(f"/forget/{index}/name", "is not a name of remember")
        if not recipe.gives_any_name and request.renew is not UNSET and renew is not None and renew.http is not None:
            for name, _ in renew.http.values:
                if name in request.remember:
                    self._bad(f"/remember/{escape_pointer(name)}", "is a value of renew, too")
        return recipe

    def _bad(self, place: str, detail: str) -> None:
        self._wrong.append(Invalid(self._pointer + place, detail))

    def _bounded(self, key: str, items: Iterable[_T], most: int) -> Iterable[tuple[int, _T]]:
        found = list(items)
        if len(found) > most:
            self._bad(f"/{key}", f"has {len(found)} entries; at most {most} are allowed")
        return enumerate(found[:most])

    def _each(self, key: str, items: list[_T], most: int, compile_one: Callable[[_T, str], Any]) -> Iterable[Any]:
        return (compile_one(item, f"/{key}/{index}") for index, item in self._bounded(key, items, most))

    def _matcher(self, request: MatcherRequest, place: str) -> Matcher:
        made = compile_matcher(request, self._pointer + place, self._wrong)
        if made.needs_json:
            self._uses.json.append(self._pointer + place)
        return made

    def _maybe(self, request: MatcherRequest | UnsetType, place: str) -> Matcher | None:
        return None if isinstance(request, UnsetType) else self._matcher(request, place)

    def _outgoing(
        self, request: StepRequest | AnswerRequest, place: str, allowed: frozenset[Kind]
    ) -> MessageTemplate | None:
        made = compile_outgoing(request.send, request.send_base64, self._pointer + place, self._wrong, allowed)
        if made is not None:
            self._uses.add(made.needs, f"{self._pointer}{place}/send")
        return made

    def _opening(self) -> Iterable[Step]:
        awaited = False
        for index, step in self._bounded("opening", self._request.opening, MAX_STEPS):
            place = f"/opening/{index}"
            send = self._outgoing(step, place, OF_ANSWER if awaited else OF_MESSAGE)
            made = Step(
                send=send,
                expect=self._maybe(step.expect, f"{place}/expect"),
                fail=self._maybe(step.fail, f"{place}/fail"),
                timeout_s=step.timeout,
                when=step.when,
                unless=step.unless,
            )
            if send is None and made.expect is None:
                self._bad(place, "needs send, sendBase64 or expect")
            if made.fail is not None and made.expect is None:
                self._bad(f"{place}/fail", "needs expect: without it nothing is awaited")
            check_duration(step.timeout, MIN_TIMEOUT_S, MAX_TIMEOUT_S, f"{self._pointer}{place}/timeout", self._wrong)
            for key, name in (("when", step.when), ("unless", step.unless)):
                if name is not None:
                    self._uses.names.setdefault(name, f"{self._pointer}{place}/{key}")
            awaited = awaited or made.expect is not None
            yield made

    def _answer(self, request: AnswerRequest, place: str) -> Answer:
        send = self._outgoing(request, place, OF_ANSWER)
        if send is None:
            self._bad(place, "needs send or sendBase64")
        if request.hide and request.after == "stored":
            self._bad(f"{place}/hide", "what is hidden is never stored: after must be received")
        return Answer(
            when=self._matcher(request.when, f"{place}/when"),
            send=send or MessageTemplate(b""),
            stored=request.after == "stored",
            hide=request.hide,
        )

    def _remember(self) -> Iterable[Remember]:
        for _, (name, one) in self._bounded("remember", self._request.remember.items(), MAX_REMEMBERED):
            place = f"/remember/{escape_pointer(name)[:100]}"
            if not is_name(name):
                self._bad(place, _NO_NAME)
            self._uses.json.append(self._pointer + place)
            yield Remember(name, self._at(one.pointer, f"{place}/pointer"), self._maybe(one.when, f"{place}/when"))

    def _at(self, text: str, place: str) -> Pointer:
        made = parse_pointer(text)
        if made is None:
            self._bad(place, "is not a JSON pointer (RFC 6901)")
        return made or Pointer("", ())

    def _renew(self, request: RenewRequest) -> Renew:
        function = None if isinstance(request.function, UnsetType) else request.function
        http = None if isinstance(request.http, UnsetType) else request.http
        if (function is None) is (http is None):
            self._bad("/renew", "needs function or http, and not both")
        if request.params is not UNSET and function is None:
            self._bad("/renew/params", "belong to a function")
        if function is not None:
            self._uses.functions.setdefault(function, f"{self._pointer}/renew/function")
        check_duration(request.timeout, MIN_TIMEOUT_S, MAX_TIMEOUT_S, f"{self._pointer}/renew/timeout", self._wrong)
        check_duration(request.reuse_for, 0, MAX_REUSE_S, f"{self._pointer}/renew/reuseFor", self._wrong)
        return Renew(
            function=function,
            params={} if isinstance(request.params, UnsetType) else request.params,
            http=None if http is None else self._http(http),
            timeout_s=request.timeout,
            reuse_for_s=request.reuse_for,
        )

    def _http(self, request: RenewHttpRequest) -> RenewHttp:
        place = f"{self._pointer}/renew/http"
        url = compile_url(request.url, f"{place}/url", self._wrong)
        self._uses.add(url.needs, f"{place}/url")
        sample = url.sample()
        if sample is not None and not sample.startswith(("http://", "https://")):
            self._wrong.append(Invalid(f"{place}/url", "the scheme must be http:// or https://"))
        elif sample is not None:  # the rules of a WebSocket's URL (RFC 6455 section 3) but for the scheme
            self._wrong += [Invalid(f"{place}/url", one.detail) for one in check_url(f"ws{sample[4:]}")]
        self._wrong += check_headers(request.headers, f"{place}/headers")
        headers = []
        for name, value in request.headers.items():
            at = f"{place}/headers/{escape_pointer(name)[:100]}"
            for text in [value] if isinstance(value, str) else value:
                made = compile_header(text, at, self._wrong, recipe=True)
                self._uses.add(made.needs, at)
                headers.append((name, made))
        body = None
        if request.body is not UNSET:
            if request.method == "GET":
                self._wrong.append(Invalid(f"{place}/body", "a GET has no body"))
            body = compile_message(request.body, f"{place}/body", self._wrong, OF_DIAL)
            self._uses.add(body.needs, f"{place}/body")
        if not request.values:
            self._wrong.append(Invalid(f"{place}/values", "names no value"))
        values = []
        for _, (name, text) in self._bounded("renew/http/values", request.values.items(), MAX_REMEMBERED):
            at = f"/renew/http/values/{escape_pointer(name)[:100]}"
            if not is_name(name):
                self._bad(at, _NO_NAME)
            values.append((name, self._at(text, at)))
        return RenewHttp(url=url, method=request.method, headers=tuple(headers), body=body, values=tuple(values))

    def _reconnect_when(self, request: ReconnectWhenRequest, place: str) -> ReconnectWhen:
        url_from = None
        if not isinstance(request.url_from, UnsetType):
            url_from = self._at(request.url_from, f"{place}/urlFrom")
            self._uses.json.append(f"{self._pointer}{place}/urlFrom")
        return ReconnectWhen(
            when=self._matcher(request.when, f"{place}/when"), url_from=url_from, at_once=request.delay == "none"
        )

    def _catch_up(self, request: CatchUpRequest) -> CatchUp:
        self._uses.functions.setdefault(request.function, f"{self._pointer}/catchUp/function")
        check_duration(request.timeout, MIN_TIMEOUT_S, MAX_CATCH_UP_S, f"{self._pointer}/catchUp/timeout", self._wrong)
        return CatchUp(request.function, request.params, request.timeout)
