"""``mooring hooks listen``: a receiver on loopback that verifies as every receiver must, and prints what it was sent."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import shlex
import signal
import time
from pathlib import Path

import click
import msgspec
from aiohttp import web

from mooring import json_text, private_files
from mooring_api.commands.secret_file import secret_in
from mooring_api.commands.tables import plain
from mooring_api.commands.target import EXIT_INTERRUPTED, Failure, plural
from mooring_service.hook_options import secret_key, secret_of

TOLERANCE_S = 300.0
MAX_BODY_BYTES = 64 * 1024 * 1024
SECRET_BYTES = 32


def key_in(path: Path) -> bytes:
    """Return the key of a secret's file, which is made where there is none.

    Raises:
        Failure: If it holds none.
    """
    if not path.exists():
        try:
            private_files.write_text(path, secret_of(os.urandom(SECRET_BYTES)) + "\n")
        except OSError as exc:
            raise Failure(f"{path}: {exc.strerror}") from None
        click.echo(f"a secret was made in the file {path}", err=True)
    return secret_key(secret_in(path))


def is_signed(key: bytes, number: str, time_text: str, signatures: str, body: bytes, now_s: float) -> bool:
    """Say whether a POST was signed with `key`, just now (Standard Webhooks, v1)."""
    if not time_text.isascii() or not time_text.isdigit() or abs(int(time_text[:15]) - now_s) > TOLERANCE_S:
        return False
    signed = hmac.new(key, f"{number}.{time_text}.".encode("utf-8", "surrogateescape") + body, hashlib.sha256)
    wanted = f"v1,{base64.b64encode(signed.digest()).decode()}"
    return any(hmac.compare_digest(wanted.encode(), one.encode("utf-8", "replace")) for one in signatures.split(" "))


class _Listener:
    def __init__(self, key: bytes, limit: int | None) -> None:
        self._key = key
        self._left = limit
        self.done = asyncio.Event()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        headers = request.headers
        names = ("webhook-id", "webhook-timestamp", "webhook-signature")
        number, at, signatures = (headers.get(name, "") for name in names)
        if not is_signed(self._key, number, at, signatures, body, time.time()):
            click.echo(f"refused: {plain(number[:100]) or 'no webhook-id'} is not signed with this secret", err=True)
            return web.Response(status=401)
        try:
            events = events_of(headers.get("content-type", ""), body)
        except ValueError:
            return web.Response(status=400)
        click.echo(
            f"verified {plain(number)}  {plural(len(events), 'event')}  attempt {plain(headers.get('mooring-attempt', ''))}",
            err=True,
        )
        for event in events:
            click.echo(plain(event))
        if self._left is not None:
            self._left -= len(events)
            if self._left <= 0:
                self.done.set()
        return web.Response()


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]


def events_of(kind: str, body: bytes) -> list[str]:
    """Return the events of a POST, as they came.

    Raises:
        ValueError: If it is no JSON.
    """
    text = body.decode()
    if kind.startswith("application/x-ndjson"):
        return [line for line in text.split("\n") if line]  # only those end a line: an event may hold others
    try:
        return [bytes(event).decode() for event in msgspec.json.decode(body, type=_Page).events]
    except msgspec.DecodeError:
        value = json_text.decode(body)  # one event; or it holds what that does not read
    if not isinstance(value, dict) or "events" not in value:
        return [text]
    return [json_text.encode(event).decode() for event in value["events"]]


def run(port: int, secret_file: Path, limit: int | None) -> None:
    """Listen until Ctrl-C, or until `limit` events have come."""
    key = key_in(secret_file)

    async def main() -> bool:
        listener = _Listener(key, limit)
        stopped = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stopped.set)
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/{path:.*}", listener.take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            where = f"http://127.0.0.1:{runner.addresses[0][1]}/"
            click.echo(f"listening at {where}; in another terminal:", err=True)
            click.echo(
                f"  mooring hooks set try {where} --secret-file {shlex.quote(str(secret_file.resolve()))}", err=True
            )
            waits = [asyncio.ensure_future(stopped.wait()), asyncio.ensure_future(listener.done.wait())]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        finally:
            await runner.cleanup()
        return listener.done.is_set()

    try:
        if not asyncio.run(main()):
            raise click.exceptions.Exit(EXIT_INTERRUPTED)
    except OSError as exc:
        raise Failure(f"port {port}: {exc.strerror}") from None
