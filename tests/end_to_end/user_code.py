"""Handlers and functions that the end-to-end tests have workers run."""

from __future__ import annotations

import time


class Stubborn:
    def on_message(self, ws, event) -> None:
        time.sleep(60)
