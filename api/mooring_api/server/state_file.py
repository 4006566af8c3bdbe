"""Small files in the state directory by which other programs find the service, or learn what became of it."""

from __future__ import annotations

from pathlib import Path


def replace_text(path: Path, text: str) -> None:
    """Give `path` a new text: whoever reads it meanwhile finds all of the old one or all of the new one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
