"""What user code imports, and what it costs those who need only the words."""

from __future__ import annotations

import subprocess
import sys

import mooring

LOADS_NO_MORE = """
import sys, mooring, mooring.errors, mooring.options
assert not {"aiohttp", "uvloop", "ssl"} & set(sys.modules), sorted(sys.modules)
from mooring import *
assert WebSocket.__module__ == "mooring.usercode.websocket" and callable(call_worker)
"""


def test_the_words_are_read_without_what_a_worker_runs_on() -> None:
    subprocess.run([sys.executable, "-c", LOADS_NO_MORE], check=True, timeout=60)


def test_every_public_name_is_there_and_no_other() -> None:
    for name in mooring.__all__:
        assert getattr(mooring, name) is not None
    assert not hasattr(mooring, "Runtime")
