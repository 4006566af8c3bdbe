"""The configuration."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring_service.config import Config, ConfigError, load


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "mooring.toml"
    path.write_text(text)
    return load(path, environ)


def test_later_sources_win(tmp_path: Path) -> None:
    config = _load(tmp_path, "[limits]\nmax_connections = 5\nmax_workers = 7", MOORING_LIMITS_MAX_CONNECTIONS="6")
    assert (config.limits.max_connections, config.limits.max_workers) == (6, 7)
    config = load(None, {"MOORING_API_LISTEN": "127.0.0.1:1"}, {"api": {"listen": "127.0.0.1:2"}})
    assert config.api.listen == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[limits]\nmax_conections = 5", "max_connections"),
        ("[limit]\nmax_connections = 5", "limits"),
        ("[journal]\nlevel = 'powr'", "level"),
        ("[limits]\nmax_connections = -5", "max_connections"),
        ("[limits]\nmax_connections = '5'", "max_connections"),
        ("[handlers]\nx = 'no colon'", "x"),
        ("[egress]\nallow = ['10.0.0.0/99']", "egress.allow"),
        ("[tokens.ci]\nhash = 'plain'", "ci"),
        ("[tokens.ci]\nhash = 'sha256:00'\nscopes = ['all']", "scopes"),
        ("not toml", "mooring.toml"),
    ],
)
def test_a_wrong_configuration_names_the_place(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=hint.replace(".", r"\.")):
        _load(tmp_path, text)


def test_an_unknown_variable_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONECTIONS": "5"})
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONNECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONNECTIONS": "many"})
