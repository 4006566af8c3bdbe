"""What the console page is made of: how its parts hang together, and what of others comes with it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from tests.conftest import ROOT


def test_no_part_of_the_page_imports_one_that_uses_it() -> None:
    folder = ROOT / "api" / "mooring_api" / "console"
    imports = {
        path.name: set(re.findall(r"^import .*?'/console/([\w.]+)';$", path.read_text(), re.M))
        for path in folder.glob("*.js")
    }
    left = dict(imports)
    while left:
        ready = [name for name, needed in left.items() if not needed & left.keys()]
        assert ready, f"a circle among {sorted(left)}"
        for name in ready:
            del left[name]
    reached = {"main.js"}
    while more := set().union(*(imports[name] for name in reached)) - reached:
        reached |= more
    assert reached == set(imports), "each is used, and each is there"


def test_what_is_vendored_is_what_its_checksums_say() -> None:
    folder = ROOT / "api" / "mooring_api" / "console" / "vendor" / "uplot"
    for line in (folder / "SHA256SUMS.txt").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256(Path(folder, name).read_bytes()).hexdigest() == digest
    assert (folder / "LICENSE.txt").exists()
