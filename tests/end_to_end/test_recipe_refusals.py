"""What is wrong with a recipe is told by its place, and nothing is begun."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import ROOT, RunningService

CODE = "tests.end_to_end.recipe_code"
SERVICE = (
    [
        "--app-dir", str(ROOT), "--handler", f"Renews={CODE}:Renews",
        *(part for name in ("get_calls", "give_token", "give_token_later", "raises", "give_nonsense", "fetch_missed", "fetch_for_ever")
          for part in ("--function", f"{name}={CODE}:{name}")),
    ],
    {},
)  # fmt: skip

BAD: list[tuple[str, dict[str, Any]]] = [
    ("/recipe", {"recipe": {"opening": [{"send": "x" * 70_000}]}}),
    ("/recipe/opening", {"recipe": {"opening": [{"send": "x"}] * 17}}),
    ("/recipe/opening/0", {"recipe": {"opening": [{}]}}),
    ("/recipe/opening/0/timeout", {"recipe": {"opening": [{"expect": "x", "timeout": 0}]}}),
    ("/recipe/opening/0/expect/~1a~0x", {"recipe": {"opening": [{"expect": {"/a~x": 1}}]}}),
    ("/recipe/opening/0/send/a", {"recipe": {"opening": [{"send": {"a": "${what:x}"}}]}}),
    ("/recipe/opening/0/send", {"recipe": {"opening": [{"send": "${nobody}"}]}}),
    ("/recipe/answers/0/hide", {"recipe": {"answers": [{"when": "x", "send": "y", "after": "stored", "hide": True}]}}),
    ("/recipe/reconnectWhen", {"recipe": {"reconnectWhen": [{"when": "x"}]}}),
    ("/recipe/catchUp", {"recipe": {"catchUp": {"function": "fetch_missed"}}}),
    ("/recipe/renew/function", {"recipe": {"renew": {"function": "unknown"}}}),
    ("/recipe/remember/x/pointer", {"recipe": {"remember": {"x": {"pointer": "a"}}}}),
    ("/recipe", {"recipe": "no-such-preset"}),
    ("/recipe/preset", {"recipe": {"preset": "no-such-preset"}}),
    ("/recipe/values/token", {"recipe": {"preset": "home-assistant", "values": {"events": "*"}}}),
    ("/recipe/opening/0/expect", {"recipe": {"opening": [{"expect": {"/a": 1}}]}, "dataType": "blob"}),
    ("/keepAlive", {"keepAlive": {}}),
    ("/keepAlive/interval", {"keepAlive": {"send": "x"}}),
    ("/keepAlive/timeout", {"keepAlive": {"send": "x", "interval": 5, "timeout": 0}}),
    ("/keepAlive/within", {"keepAlive": {"within": 0.01}}),
    ("/dataTimeout", {"dataTimeout": 0.01}),
    ("/url", {"url": "${nobody}", "recipe": {}}),
    ("/url", {"url": "${token}"}),
]


@pytest.mark.parametrize(("pointer", "body"), BAD, ids=[f"{index}-{pointer}" for index, (pointer, _) in enumerate(BAD)])
async def test_bad_input_is_told_by_its_place(shared: RunningService, pointer: str, body: dict[str, Any]) -> None:
    problem = await shared.call("POST", "/v1/connections", 422, json={"url": "ws://127.0.0.1:1/", **body})
    assert pointer in [error["pointer"] for error in problem["errors"]], problem
