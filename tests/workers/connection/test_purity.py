"""The decisions about kept connections touch neither clock nor chance nor I/O."""

from __future__ import annotations

import pytest

from tests.test_architecture import IMPURE, imports, modules

PURE = {"mooring.kept_options", "mooring.process.redial"} | {
    f"mooring.connection.{name}" for name in ("hidden", "keep", "matcher", "pointer", "template")
}


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_decides_about_kept_connections_touches_nothing(name: str) -> None:
    touched = {target.split(".")[0] for target, _ in imports(dict(modules())[name])} & (IMPURE | {"random"})
    assert not touched, f"{name} imports {touched}"
