"""The page that says which test shows what names tests that are there, and leaves no number out."""

from __future__ import annotations

import re

from tests.conftest import ROOT

BUILT = {*range(1, 9), *range(10, 16), 17, 18, *range(21, 29), 30, *range(32, 36)}


def test_the_page_of_the_designs_tests_names_what_is_there() -> None:
    page = (ROOT / "tests" / "cluster_kit" / "README.md").read_text()
    there = {
        (path.stem, name)
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.M)
    }
    named = set(re.findall(r"(test_\w+)::(test_\w+)", page))
    assert named <= there
    numbers = {int(one) for cell in re.findall(r"^\| ([\d, ]+) \|", page, re.M) for one in cell.split(",")}
    assert numbers == BUILT
