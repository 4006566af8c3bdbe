"""What can be asked of the API can be asked in Python and on the command line: each route has its verb and its command, each parameter its word."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click
import msgspec
import pytest

from mooring_api.client import Client
from mooring_api.commands.cli import main
from mooring_api.rest.app import ROUTES
from mooring_api.rest.routes import JSON, Route

PLAIN = {"/healthz", "/readyz", "/metrics", "/openapi.json"}
"""What probes, Prometheus and generators of code read: a plain request is what they make."""


class Said(NamedTuple):
    """How a route is asked for; of its parameters those that have another word than the rule gives them, None: there is none."""

    verbs: tuple[Callable[..., Any], ...]
    command: str
    keyword: dict[str, str | None] = {}
    option: dict[str, str | None] = {}


_WAIT = ({"Prefer": "wait"}, {"Prefer": "no-wait"})
_PAGES = {"limit": None, "after": None}  # a command shows all pages
_STREAM = {"Last-Event-ID": "after"}
_TAIL: dict[str, str | None] = {"Last-Event-ID": "after", "wait": None}  # a command does not page, it follows

SAID: dict[tuple[str, str], Said] = {
    ("POST", "/v1/connections"): Said((Client.open,), "open", *_WAIT),
    ("GET", "/v1/connections"): Said((Client.connections,), "ls", {}, _PAGES),
    ("GET", "/v1/connections/{id}"): Said((Client.connection,), "show"),
    ("DELETE", "/v1/connections/{id}"): Said((Client.terminate,), "close"),
    ("PUT", "/v1/connections/{id}"): Said((Client.put,), "open", *_WAIT),
    ("PATCH", "/v1/connections/{id}"): Said((Client.change,), "set"),
    ("POST", "/v1/connections/{id}/reconnect"): Said((Client.reconnect,), "reconnect", {"Prefer": "wait"}, {"Prefer": "wait"}),
    ("POST", "/v1/connections/{id}/messages"): Said((Client.send, Client.send_lines), "send"),
    ("DELETE", "/v1/connections/{id}/queue"): Said((Client.drop_queue,), "send"),
    ("POST", "/v1/connections/{id}/requests"): Said((Client.send_request,), "request", {"Prefer": None}, {"Prefer": "no-wait"}),
    ("GET", "/v1/workers"): Said((Client.workers,), "workers"),
    ("GET", "/v1/workers/{name}"): Said((Client.worker,), "workers show"),
    ("PUT", "/v1/workers/{name}"): Said((Client.start_worker,), "workers start"),
    ("DELETE", "/v1/workers/{name}"): Said((Client.kill_worker,), "kill"),
    ("POST", "/v1/workers/{name}/drain"): Said((Client.drain_worker,), "workers drain"),
    ("POST", "/v1/workers/{name}/calls"): Said((Client.call,), "call", *_WAIT),
    ("GET", "/v1/connections/{id}/events"): Said((Client.page,), "tail", {**_STREAM, "wait": "wait_s"}, _TAIL),
    ("GET", "/v1/workers/{name}/events"): Said((Client.page,), "tail", {**_STREAM, "wait": "wait_s"}, _TAIL),
    ("GET", "/v1/events"): Said((Client.page,), "tail", {**_STREAM, "wait": "wait_s"}, _TAIL),
    ("GET", "/v1/hooks"): Said((Client.hooks,), "hooks"),
    ("GET", "/v1/hooks/{hook}"): Said((Client.hook,), "hooks show"),
    ("PUT", "/v1/hooks/{hook}"): Said((Client.set_hook,), "hooks set"),
    ("DELETE", "/v1/hooks/{hook}"): Said((Client.remove_hook,), "hooks rm"),
    ("POST", "/v1/hooks/{hook}/pause"): Said((Client.pause_hook,), "hooks pause"),
    ("POST", "/v1/hooks/{hook}/resume"): Said((Client.resume_hook,), "hooks resume"),
    ("POST", "/v1/hooks/{hook}/retry"): Said((Client.retry_hook,), "hooks retry"),
    ("POST", "/v1/hooks/{hook}/test"): Said((Client.test_hook,), "hooks test"),
    ("POST", "/v1/hooks/{hook}/cursor"): Said((Client.move_hook,), "hooks replay"),
    ("POST", "/v1/hooks/{hook}/skip"): Said((Client.skip_hook,), "hooks skip"),
    ("POST", "/v1/hooks/{hook}/secrets"): Said((Client.add_hook_secret,), "hooks rotate", {}, {"secret": "secret-file"}),
    ("GET", "/v1/hooks/{hook}/attempts"): Said((Client.hook_attempts,), "hooks log"),
    ("GET", "/v1/cluster"): Said((Client.cluster,), "cluster status"),
    ("POST", "/v1/backup"): Said((Client.backup,), "backup"),
}  # fmt: skip

DESCRIBED = [route for route in ROUTES if route.summary and route.path not in PLAIN]


def test_each_route_that_is_described_has_a_verb_and_a_command() -> None:
    assert SAID.keys() == {(route.method, route.path) for route in DESCRIBED}


def _asked(route: Route, verb: Callable[..., Any]) -> dict[str, bool]:
    """Whatever the route may be told beside its path, and whether more than once; of a body its keys, where the verb names them."""
    asked = {one.name: one.repeatable for one in (*(route.query or ()), *route.headers)}
    shape = (route.body or {}).get(JSON)
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in inspect.signature(verb).parameters.values())
    if isinstance(shape, type) and not takes_any:
        asked |= {field.encode_name: False for field in msgspec.structs.fields(shape)}
    return asked


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall("[A-Z]?[a-z]+", name)]


def _command(path: str) -> click.Command:
    found: click.Command | None = main
    for word in path.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None, path
    return found


EACH = pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: f"{route.method} {route.path}")


@EACH
def test_the_client_can_say_whatever_the_route_can_be_told(route: Route) -> None:
    said = SAID[route.method, route.path]
    for verb in said.verbs:
        taken = inspect.signature(verb).parameters
        for name, many in _asked(route, verb).items():
            keyword = said.keyword.get(name, "_".join(_words(name)) + "s" * many)
            assert keyword is None or keyword in taken, f"{verb.__qualname__}: {name}"


def test_a_stream_of_the_client_can_be_told_whatever_a_page_can_but_its_size_and_patience() -> None:
    page, events = (inspect.signature(verb).parameters for verb in (Client.page, Client.events))
    assert [*events] == [name for name in page if name not in ("limit", "wait_s")]
    assert [*events] == [*inspect.signature(Client.raw_events).parameters]


@EACH
def test_the_command_line_can_say_whatever_the_route_can_be_told(route: Route) -> None:
    said = SAID[route.method, route.path]
    taken = {word.lstrip("-") for param in _command(said.command).params for word in param.opts}
    for name in _asked(route, said.verbs[0]):
        option = said.option.get(name, "-".join(_words(name)))
        assert option is None or option in taken, f"mooring {said.command}: {name}"
