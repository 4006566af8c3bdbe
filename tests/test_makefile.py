"""The Makefile: whatever it names can be called."""

from __future__ import annotations

import re
from pathlib import Path

MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()


def test_every_target_that_is_named_has_a_rule() -> None:
    phony = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[1].split())
    rules = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
    helped = {word for line in re.findall(r'@echo "((?:make )[^"]*?)  ', MAKEFILE) for word in line.split()} - {"make"}
    assert phony == rules
    assert helped <= rules
