"""Handlers of kept connections, for `test_kept` and `test_kept_faults`: a worker imports them by name."""

from __future__ import annotations

import os
import time
from typing import Any

from mooring import WebSocket

seen: list[list[Any]] = []


def get_seen() -> list[list[Any]]:
    return seen


def open_kept(url: str) -> int:
    return WebSocket.new(url, Stays()).id


class Stays:
    """Notes every callback; kept by its own attribute."""

    reconnect = {"min_delay": 0.05}

    def on_open(self, ws, event) -> None:
        seen.append([ws.id, event.type, ws.socket, ws.status])

    def on_message(self, ws, event) -> None:
        seen.append([ws.id, event.type, event.data])

    def on_disconnect(self, ws, event) -> None:
        seen.append([ws.id, event.type, event.socket, event.cause])

    def on_reconnect(self, ws, event) -> None:
        seen.append([ws.id, event.type, event.socket, event.restarted])

    def on_error(self, ws, event) -> None:
        seen.append([ws.id, event.type, event.errors[0].err_code])

    def on_terminate(self, ws, event) -> None:
        seen.append([ws.id, event.type, event.code])


class Persists:
    """Asks for more than a journal in memory can give."""

    reconnect = {"persist": True}


class Answers:
    """Says again what was said."""

    def on_message(self, ws, event) -> None:
        ws.send(event.data)


class CatchesUp:
    """Asks its source, a file with a number, for what it has missed."""

    reconnect = {"min_delay": 0.05}

    def __init__(self, path: str, seconds: float = 0.0) -> None:
        self.path = path
        self.seconds = seconds
        self.last = 0

    def on_message(self, ws, event) -> None:
        self.last = int(event.data)

    def on_reconnect(self, ws, event) -> None:
        time.sleep(self.seconds)
        with open(self.path) as file:
            missed = range(self.last + 1, int(file.read()))
        ws.fill(str(number) for number in missed)


class Mqtt:
    """Connects and subscribes on each new socket: without `on_reconnect`, `on_open` is called for each."""

    data_type = "blob"

    def on_open(self, ws, event) -> None:
        ws.send(bytes([0x10, 19, 0, 4]) + b"MQTT" + bytes([4, 2, 0, 60, 0, 7]) + b"mooring")
        ws.send(bytes([0x82, 9, 0, 1, 0, 4]) + b"feed" + b"\0")


class TakesLong:
    """Is made at once the first time; each further time once the file is there."""

    def __init__(self, path: str) -> None:
        while os.path.exists(path) and not os.path.exists(f"{path}.go"):
            time.sleep(0.02)
        with open(path, "a"):
            pass


class CannotBeMade:
    """Can be constructed once: where it has been, there is a file."""

    def __init__(self, path: str) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
