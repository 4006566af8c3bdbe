"""Handlers and functions that use secrets."""

from __future__ import annotations

from mooring import WebSocket


class LogsIn:
    """Says a secret."""

    headers = {"X": "${secret:feed}"}


class Strays:
    """Names a secret that nobody has."""

    headers = {"X": "${secret:nobody}"}


def open_with_secret(url: str) -> int:
    """Open a connection whose handler says a secret."""
    return WebSocket.new(url, LogsIn()).id
