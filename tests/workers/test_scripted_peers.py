"""A transcript as a test of a recipe: of the test kit, and read by itself."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mooring.scripted import follow
from mooring.testing import LocalWorker, Server, ServerConnection
from mooring.transcript import Line, is_meant, parse_transcript

LOGIN = """
# The server speaks first.
< {"type": "who"}
> {"type": "login", "token": "*", "id": 1}
< {"type": "welcome"}
plain text
> {"type": "pong"}
"""


class LogsIn:
    reconnect = {"min_delay": 0.05}
    recipe = {
        "opening": [
            {"expect": {"/type": "who"}},
            {"send": {"type": "login", "token": "t", "id": "${nextId}"}, "expect": {"/type": "welcome"}},
        ],
        "answers": [{"when": "plain text", "send": {"type": "pong"}}],
    }

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_message(self, ws: Any, event: Any) -> None:
        self.heard.append(event.data)


def test_a_handler_s_recipe_is_tested_by_a_transcript() -> None:
    handler = LogsIn()
    with Server(follow(LOGIN)) as server, LocalWorker() as worker:
        ws = worker.open(server.url, handler)
        assert ws.ready
        worker.wait_for("onMessage", 3)
        deadline = time.monotonic() + 60
        while len(server.connections[0].received) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        ws.terminate()
        worker.wait_for("onTerminate")
    assert handler.heard == ['{"type": "who"}', '{"type": "welcome"}', "plain text"]
    assert server.connections[0].received[1] == '{"type":"pong"}'


def test_a_client_that_says_something_else_fails_the_test() -> None:
    with pytest.raises(AssertionError, match="line 1"), Server(follow("> hello")) as server, LocalWorker() as worker:
        worker.open(server.url).send("goodbye")
        worker.wait_for("onTerminate")


def test_a_transcript_is_lines_of_who_says_what() -> None:
    assert parse_transcript("< a\n\n# b\n>c\nd\n~ 1.5\n") == [
        Line("<", "a", 1), Line(">", "c", 4), Line("<", "d", 5), Line("~", "1.5", 6),
    ]  # fmt: skip
    for wrong in ("~ x", "~ -1", "~ nan", "~ 1e9"):
        with pytest.raises(ValueError, match="line 1"):
            parse_transcript(wrong)


@pytest.mark.parametrize(
    ("expected", "said", "meant"),
    [
        ("a", b"a", True), ("a", b"b", False), ('{"a": 1, "b": "*"}', b'{"b":[2],"a":1}', True), ('{"a": 1}', b'{"a":1,"b":2}', False),
        ("[1]", b"[true]", False), ('["*"]', b"[]", False), ("*", b"x", False), ('"*"', b"7", True), ("{", b"{", True),
    ],
)  # fmt: skip
def test_what_is_said_is_compared_as_json(expected: str, said: bytes, meant: bool) -> None:
    assert is_meant(expected, said) is meant


class FetchesItsToken:
    """Its recipe names a function of the configuration."""

    reconnect = {"min_delay": 0.05, "max_delay": 0.05}
    recipe = {
        "renew": {"function": "give_token", "params": {"prefix": "local"}},
        "opening": [{"send": "login ${token}", "expect": {"startsWith": "welcome"}}],
    }


def test_a_local_worker_has_the_functions_that_a_recipe_names() -> None:
    heard: list[str | None] = []

    async def welcomes(connection: ServerConnection) -> None:
        heard.append(await connection.receive(30))
        await connection.send("welcome")
        await connection.receive(3600)

    functions = {"give_token": "tests.end_to_end.recipe_code:give_token"}
    with Server(welcomes) as server, LocalWorker(functions=functions) as worker:
        ws = worker.open(server.url, FetchesItsToken())
        server.drop()
        worker.wait_for("onReconnect", timeout_s=30)
        ws.terminate()
        worker.wait_for("onTerminate", timeout_s=30)
    assert all(text is not None and text.startswith("login local-") for text in heard)
    assert len(set(heard)) == 2, "a fresh one for each attempt"
