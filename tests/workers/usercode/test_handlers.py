"""Handlers of which a part would never run, or never count: they are told when they are made."""

from __future__ import annotations

import functools
import types
from typing import Any

import pytest

from mooring import InvalidRequest
from mooring.errors import HandlerError
from mooring.options import ConnectionRequest, HandlerRequest
from mooring.testing import LocalWorker, Server
from mooring.usercode import handlers


class Generator:
    def on_open(self, ws, event) -> None:
        pass

    def on_message(self, ws, event):
        yield event.data


class AsyncGenerator:
    async def on_terminate(self, ws, event):
        yield event


class StaticGenerator:
    @staticmethod
    def on_error(ws, event):
        yield


class Spelled4D:
    def onMessage(self, ws, event) -> None:
        pass


class Options4D:
    dataType = "object"
    pingInterval = 5


WRONG = [
    (Generator, ["Generator.on_message: it is a generator"]),
    (AsyncGenerator, ["AsyncGenerator.on_terminate: it is a generator"]),
    (StaticGenerator, ["StaticGenerator.on_error: it is a generator"]),
    (Spelled4D, ["Spelled4D.onMessage: in Python it is spelled on_message"]),
    (Options4D, ["Options4D.dataType: in Python it is spelled data_type", "Options4D.pingInterval: in Python"]),
]


@pytest.mark.parametrize(("handler", "details"), WRONG)
def test_what_of_a_handler_would_be_ignored_is_told_when_it_is_made(handler: type, details: list[str]) -> None:
    request = ConnectionRequest(url="ws://x/", handler=HandlerRequest("h"))
    with pytest.raises(InvalidRequest) as told:
        handlers.make(f"{__name__}:{handler.__name__}", request)
    for error, detail in zip(told.value.errors, details, strict=True):
        assert (error.pointer, error.detail[: len(detail)]) == ("/handler", detail)
    with Server() as server, LocalWorker() as worker:
        with pytest.raises(InvalidRequest, match=details[0].replace(".", r"\.")):
            worker.open(server.url, handler())
        assert worker.events == [] and server.connections == []


class Both:
    """Has a method of its own that is called like 4D's."""

    def onMessage(self, ws, event) -> None:
        raise AssertionError

    def on_message(self, ws, event) -> None:
        pass

    @types.coroutine
    def on_open(self, ws, event):
        if False:
            yield

    @property
    def on_error(self) -> Any:
        raise AssertionError("it is asked for when there is an error")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("on"):
            raise AssertionError(name)
        raise AttributeError(name)


def test_what_is_heard_is_taken() -> None:
    handlers.check(Both())
    handlers.check(object())
    handlers.check(Both)


class Loud:
    def __init__(self) -> None:
        raise SystemExit(2)


def test_what_a_constructor_raises_is_a_handler_error() -> None:
    request = ConnectionRequest(url="ws://x/", handler=HandlerRequest("h"))
    with pytest.raises(HandlerError, match="SystemExit"):
        handlers.make(f"{__name__}:Loud", request)


def hides(function):
    @functools.wraps(function)
    def hidden(*args):
        return function(*args)

    return hidden


class Hidden:
    @hides
    def on_message(self, ws, event):
        yield event.data

    @hides
    async def on_terminate(self, ws, event):
        yield event.code


def test_a_generator_that_a_decorator_hides_is_an_error_of_the_callback() -> None:
    with Server() as server, LocalWorker() as worker:
        ws = worker.open(server.url, Hidden())
        ws.send("hello")
        worker.wait_for("callbackError")
        ws.terminate()
        worker.wait_for("callbackError", 2)
        errors = [event["event"] for event in worker.events if event["kind"] == "callbackError"]
    assert [error["callback"] for error in errors] == ["on_message", "on_terminate"]
    assert all("generator" in error["message"] for error in errors)
