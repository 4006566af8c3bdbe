"""Requests of other nodes, over connections inside the process: what comes of each, and which connections are kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from mooring_api.server.inner import Inner

BODY = bytes(range(256)) * 4096  # 1 MiB


class Application:
    """An application, and how many connections were made to it."""

    def __init__(self) -> None:
        self.connections = 0
        self.cancelled = asyncio.Event()
        self.entered = asyncio.Event()
        self.app = web.Application(client_max_size=64 << 20)
        for path, handler in {
            "/echo": self._echo, "/unread": self._unread, "/hangs": self._hang, "/nothing": self._nothing,
            "/endless": self._stream, "/refused": self._refuse, "/drops": self._drop,
        }.items():  # fmt: skip
            self.app.router.add_route("*", path, handler)

    async def start(self) -> None:
        self.runner = web.AppRunner(self.app, handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
        await self.runner.setup()
        server = self.runner.server
        assert server is not None

        def make() -> asyncio.Protocol:
            self.connections += 1
            return server()

        self.inner = Inner(make, [("Host", "localhost")])

    async def _echo(self, request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"X-Got": request.headers.get("X-Sent", "")})

    async def _unread(self, request: web.Request) -> web.Response:
        return web.Response(text="not read")

    async def _refuse(self, request: web.Request) -> web.Response:
        return web.Response(status=413, text="too much")

    async def _nothing(self, request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=204)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b"one ", b"two ", b"three"):
            await response.write(piece)
            await asyncio.sleep(0)
        return response

    async def _hang(self, request: web.Request) -> web.Response:
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return web.Response()

    async def _drop(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.close()
        return web.Response()


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    made = Application()
    await made.start()
    yield made
    await made.runner.cleanup()


@pytest.fixture
def inner(application: Application) -> Inner:
    return application.inner


async def test_requests_behind_each_other_go_over_one_connection(application: Application, inner: Inner) -> None:
    for number in range(20):
        body = b"%d" % number * number
        status, headers, answer = await inner.run("POST", "/echo", [("X-Sent", str(number))], body)
        assert (status, answer, dict(headers)["X-Got"]) == (200, body, str(number))
    assert (await inner.run("DELETE", "/nothing", [], b""))[::2] == (204, b"")
    assert (await inner.run("POST", "/echo", [], BODY))[2] == BODY
    assert application.connections == 1


async def test_requests_beside_each_other_have_a_connection_each(application: Application, inner: Inner) -> None:
    answers = await asyncio.gather(*(inner.run("POST", "/echo", [], b"%d" % number) for number in range(50)))
    assert [answer for _, _, answer in answers] == [b"%d" % number for number in range(50)]
    assert application.connections == 50
    await asyncio.gather(*(inner.run("POST", "/echo", [], b"") for _ in range(32)))
    assert application.connections == 50, "so many are kept"


async def test_a_large_body_comes_in_pieces_as_the_application_reads(inner: Inner) -> None:
    status, _, answer = await inner.run("POST", "/echo", [], BODY * 16)
    assert status == 200
    assert answer == BODY * 16


async def test_what_was_not_read_or_was_refused_leaves_a_connection_that_is_not_used_again(
    application: Application, inner: Inner
) -> None:
    for path, expected in (("/unread", 200), ("/refused", 413), ("/missing", 404)):
        assert (await inner.run("POST", path, [], BODY))[0] == expected
        assert (await inner.run("POST", "/echo", [], b"next"))[2] == b"next"


async def test_an_answer_without_a_length_is_none(inner: Inner) -> None:
    with pytest.raises(ValueError, match="chunked"):
        await inner.run("GET", "/endless", [], b"")
    assert (await inner.run("POST", "/echo", [], b"next"))[2] == b"next"


async def test_a_connection_that_ends_without_an_answer_is_an_error(inner: Inner) -> None:
    with pytest.raises(ConnectionError):
        await inner.run("GET", "/drops", [], b"")


async def test_who_gives_up_has_the_handler_cancelled(application: Application, inner: Inner) -> None:
    asking = asyncio.create_task(inner.run("GET", "/hangs", [], b""))
    async with asyncio.timeout(60):
        await application.entered.wait()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await application.cancelled.wait()


async def test_a_kept_connection_that_the_application_has_closed_is_not_used(
    application: Application, inner: Inner
) -> None:
    await inner.run("POST", "/echo", [], b"first")
    assert application.runner.server is not None
    for one in application.runner.server.connections:
        one.force_close()
    assert (await inner.run("POST", "/echo", [], b"second"))[2] == b"second"
    assert application.connections == 2
