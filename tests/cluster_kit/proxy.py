"""Ways from one node to the engine's servers on which a test may lose, hold back or cut: a process of their own, so that no test slows them."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.conftest import ROOT


class Proxies:
    """One proxy per server, all of one node."""

    def __init__(self, ports: list[int]) -> None:
        command = [sys.executable, "-m", "tests.cluster_kit.proxy_process", *map(str, ports)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        self.urls = [f"nats://127.0.0.1:{port}" for port in self._answer()]

    def _answer(self) -> Any:
        return json.loads(self._process.stdout.readline())

    def _say(self, word: Any) -> Any:
        self._process.stdin.write(json.dumps(word).encode() + b"\n")
        self._process.stdin.flush()
        return self._answer()

    def pass_on(self) -> None:
        """Forward everything."""
        self._say("pass")

    def hold(self) -> None:
        """Become a black hole: nothing goes through, nothing ends."""
        self._say("hole")

    def lose_answers(self) -> None:
        """Lose what the servers say; what is said to them arrives."""
        self._say("deaf")

    def cut(self) -> None:
        """End all connections at once."""
        self._say("cut")

    def pass_commands(self) -> None:
        """Lose what the node says and hears of the log: only what nodes ask of each other goes through."""
        self._say("commands")

    def keep(self, marker: bytes) -> None:
        """Keep the next message that the node publishes and that contains `marker`; everything else passes."""
        self._say(["keep", marker.hex()])

    def release(self) -> None:
        """Let go on what is kept."""
        self._say("release")

    def trap(self, marker: bytes, *, passes: bool) -> None:
        """Become a black hole at the moment at which the node publishes what contains `marker`; with `passes` that still arrives."""
        self._say(["trap", marker.hex(), passes])

    @property
    def sprung(self) -> bool:
        """Has the moment of `trap` or `keep` come?"""
        return bool(self._say("sprung"))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
