"""The presets that are shipped with the package: one file each in ``presets/``. Read when asked for, and checked by a test."""

from __future__ import annotations

from importlib.resources import files

_FOLDER = files("mooring.connection") / "presets"


def shipped_presets() -> list[str]:
    """Return the names of all of them."""
    return sorted(path.name.removesuffix(".json") for path in _FOLDER.iterdir() if path.name.endswith(".json"))


def read_preset(name: str) -> bytes | None:
    """Return the bytes of the preset `name`, or None where there is none."""
    return (_FOLDER / f"{name}.json").read_bytes() if name in shipped_presets() else None
