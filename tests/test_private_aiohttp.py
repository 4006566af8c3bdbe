"""What is used of aiohttp although it is not promised: named here, so that a new aiohttp without it fails with a sentence."""

from __future__ import annotations

import importlib
import inspect
from typing import NamedTuple

import aiohttp
import pytest
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong


class Name(NamedTuple):
    module: str
    path: str
    used_for: str
    arguments: tuple[str, ...] = ()


NAMES = [
    Name("aiohttp.web_protocol", "RequestHandler.handle_error", "rest/refusals.py answers what the parser refused with a problem",
         ("self", "request", "status", "exc", "message")),
    Name("aiohttp.web_response", "SERVER_SOFTWARE", "rest/refusals.py keeps versions out of the Server header"),
    Name("aiohttp.web_protocol", "RequestHandler.__init__", "server/composition.py sets its bounds through AppRunner",
         ("keepalive_timeout", "max_headers", "auto_decompress", "access_log", "access_log_class")),
    Name("aiohttp.web_server", "Server.__init__", "server/composition.py has handlers cancelled when their client is gone",
         ("handler_cancellation",)),
    Name("aiohttp.web_urldispatcher", "UrlDispatcher.resolve", "rest/refusals.py answers what is no path", ("self", "request")),
    Name("aiohttp.web_protocol", "RequestHandler.log_access", "rest/access_log.py writes a line a request"),
    Name("aiohttp.http", "HttpResponseParser.feed_data", "wire/answer.py reads what a server answers to the handshake"),
    Name("aiohttp.base_protocol", "BaseProtocol.pause_reading", "wire/answer.py gives that parser one to speak to"),
    Name("aiohttp.streams", "StreamReader.read_nowait", "wire/answer.py reads the words of a refusal"),
    Name("aiohttp.web_protocol", "RequestHandler._waiter", "rest/gate.py closes a half-closed connection once all is answered"),
    Name("aiohttp.web_protocol", "RequestHandler._messages", "rest/gate.py closes a half-closed connection once all is answered"),
    Name("aiohttp.web_protocol", "RequestHandler._current_request", "rest/gate.py closes where the rest of a body never comes"),
    Name("aiohttp.web_protocol", "_ErrInfo", "rest/gate.py tells whoever reads a body that its rest was refused"),
    Name("aiohttp.streams", "StreamReader.set_exception", "rest/gate.py tells whoever reads a body that its rest was refused"),
    Name("aiohttp.http_exceptions", "HttpProcessingError", "a body whose chunks cannot be parsed is told from one that broke off"),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: f"{name.module}.{name.path}")
def test_this_aiohttp_has_what_is_used_of_it_without_a_promise(name: Name) -> None:
    found: object = importlib.import_module(name.module)
    sentence = f"aiohttp {aiohttp.__version__} has no {name.module}.{name.path} as we know it: {name.used_for}"
    for part in name.path.split("."):
        assert hasattr(found, part), sentence
        found = getattr(found, part)
    if name.arguments:
        assert callable(found), sentence
        parameters = inspect.signature(found).parameters
        missing = [one for one in name.arguments if one not in parameters]
        assert not missing, f"{sentence} (without {', '.join(missing)})"


def test_the_errors_of_its_parser_say_what_our_answers_are_made_from() -> None:
    sentence = f"aiohttp {aiohttp.__version__}: rest/refusals.py tells 431 from 400 by these"
    assert LineTooLong(b"line", 8190).args[1] == 8190, sentence
    assert issubclass(LineTooLong, BadHttpMessage), sentence
    parser = importlib.import_module("aiohttp.http_parser")
    assert "Too many headers" in inspect.getsource(parser), sentence
