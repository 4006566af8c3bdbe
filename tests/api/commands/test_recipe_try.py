"""`mooring recipe try`: what would be sent, without a service; `mooring check` looks at recipes, too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mooring_api.commands.cli import main

SAID = """
< {"type": "auth_required"}
> {"type": "auth", "access_token": "${secret:ha}"}
< {"type": "auth_ok"}
> {"id": "*", "type": "subscribe_events", "event_type": "state_changed"}
< {"id": 1, "type": "result", "success": true}
~ 31
< {"type": "pong"}
"""
VALUES = json.dumps({"token": "${secret:ha}", "events": "state_changed"})


def run(*arguments: str, said: str = SAID) -> tuple[int, list[str], str]:
    ran = CliRunner().invoke(main, ["recipe", "try", *arguments, "--transcript", "-"], input=said)
    return ran.exit_code, ran.stdout.splitlines(), ran.stderr


def test_a_preset_is_gone_through_line_by_line() -> None:
    code, lines, _ = run("home-assistant", "--values", VALUES)
    assert (code, lines) == (0, [
        '< {"type": "auth_required"}', '> {"type":"auth","access_token":"${secret:ha}"}', '< {"type": "auth_ok"}',
        '> {"id":1,"type":"subscribe_events","event_type":"state_changed"}',
        '< {"id": 1, "type": "result", "success": true}', "= ready", "~ 31 s", '> {"id":2,"type":"ping"}',
        '< {"type": "pong"}   (hidden)',
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("said", "last"),
    [
        ("< {\"type\": \"auth_required\"}\n< {\"type\": \"auth_invalid\"}", "! 112: step 2 of the opening was refused (refused: renewed once)"),
        ("~ 11", "! 112: step 1 of the opening was not answered in time"),
        ("< x", "! it is not ready: step 1 of the opening is awaited"),
        (SAID + "~ 100", "! 207: no answer to a heartbeat, or no heartbeat"),
        ("< {\"type\": \"auth_required\"}\n> {\"type\": \"hello\"}", "! it is not ready: step 2 of the opening is awaited"),
    ],
)  # fmt: skip
def test_what_goes_wrong_is_told_and_is_the_exit_status(said: str, last: str) -> None:
    code, lines, _ = run("home-assistant", "--values", VALUES, said=said)
    assert (code, lines[-1]) == (1, last)


def test_a_file_holds_a_recipe_a_body_or_a_fragment(tmp_path: Path) -> None:
    recipe = {
        "opening": [{"send": "hello ${name}"}],
        "renew": {"function": "f"},
        "answers": [{"when": "a", "send": "b", "after": "stored"}],
    }
    for content in (recipe, {"url": "ws://x/", "recipe": recipe}, {"recipe": recipe}):
        path = tmp_path / "recipe.json"
        path.write_text(json.dumps(content))
        code, lines, _ = run(str(path), "--renewed", '{"name": "you"}', said="a")
        assert (code, lines) == (0, ["> hello you", "= ready", "< a", "= once the journal has it:", "> b"])


@pytest.mark.parametrize(
    ("arguments", "said", "code", "text"),
    [
        (["no-such"], "", 2, "neither a preset"),
        (["home-assistant"], "", 1, "/recipe/values/token"),
        (["home-assistant", "--values", "x"], "", 2, "not a JSON object"),
        (["home-assistant", "--values", VALUES], "~ x", 2, "line 1"),
    ],
)
def test_wrong_usage_is_told(arguments: list[str], said: str, code: int, text: str) -> None:
    ended, _, told = run(*arguments, said=said)
    assert ended == code and text in told


def test_check_looks_at_recipes(tmp_path: Path) -> None:
    good, bad, config = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "mooring.toml"
    good.write_text('{"recipe": {"opening": [{"send": "x"}]}}')
    bad.write_text('{"recipe": {"opening": [{}]}}')
    config.write_text(
        f'[recipes]\ngood = "{good}"\nbad = "{bad}"\ngone = "{tmp_path}/gone.json"\n[api]\nlisten = "127.0.0.1:0"\n'
    )
    ran = CliRunner().invoke(main, ["--state-dir", str(tmp_path / "state"), "check", "--config", str(config)])
    assert ran.exit_code == 1
    assert f"ok  recipes.good = {good}" in ran.output
    assert f"no  recipes.bad = {bad}: /recipe/opening/0: needs send, sendBase64 or expect" in ran.output
    assert "recipes.gone" in ran.output and "No such file" in ran.output
