"""User code that recipes name: values for an attempt, and what was missed."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from mooring import WebSocket

CALLS: list[Any] = []


def get_calls() -> list[Any]:
    return CALLS


def give_token(prefix: str = "token") -> dict[str, str]:
    """A fresh value for each attempt."""
    CALLS.append(prefix)
    return {"token": f"{prefix}-{len(CALLS)}"}


async def give_token_later() -> dict[str, str]:
    await asyncio.sleep(0.01)
    return {"token": "later-canary"}


def raises() -> dict[str, str]:
    raise RuntimeError("the vault is closed")


def give_nonsense() -> Any:
    return ["no", "object"]


def fetch_missed(event: dict[str, Any], count: int = 3) -> list[str]:
    CALLS.append(event)
    return [f"missed {number}" for number in range(count)]


async def fetch_for_ever(event: dict[str, Any]) -> list[str]:
    await asyncio.sleep(3600)
    return []


class Renews:
    """A handler that fetches its own values, and logs in by its recipe."""

    reconnect = {"min_delay": 0.05}
    recipe = {"opening": [{"send": "login ${token}", "expect": {"startsWith": "welcome"}}]}

    def __init__(self) -> None:
        self.seen: list[str] = []

    def renew(self, attempt: int) -> dict[str, str]:
        return {"token": f"own-{attempt}"}

    def on_message(self, ws: WebSocket, event: Any) -> None:
        CALLS.append(event.data)


def fetch_slowly(event: dict[str, Any]) -> list[str]:
    """What a feed had said between 1,000 and 1,050; it blocks meanwhile, for longer than a peer may be silent."""
    time.sleep(5)
    return [str(number) for number in range(1_001, 1_050)]
