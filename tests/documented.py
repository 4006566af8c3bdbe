"""Programs that pages hold under a name of their own (`file: NAME` on their first line): taken out, to be run by a test."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import ROOT

_BLOCK = re.compile(r"^```\w+\n(?:<\?php )?(?://|#) file: (\S+)\n(.*?)^```$", re.M | re.S)


def program(page: str, name: str, folder: Path) -> Path:
    """Write the program `name` of `page` into `folder`."""
    found = {match[1]: match[2] for match in _BLOCK.finditer((ROOT / page).read_text())}
    path = folder / name
    path.write_text(("<?php\n" if name.endswith(".php") else "") + found[name])
    return path
