"""What waits, and what is asked, on the command line and with the client."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

import pytest

from mooring_api.client import ApiError, BlockingClient, Client, Sent
from tests.command_line import mooring
from tests.conftest import RunningService
from tests.end_to_end.test_queue import down
from tests.servers import EchoServer


async def test_send_says_what_waits_and_request_prints_the_reply(shared: RunningService, echo: EchoServer) -> None:
    kept = str(await down(shared, echo))
    refused = await mooring(shared, "send", kept, "now")
    assert refused.code == 1 and "is Reconnecting" in refused.errors
    ran = await mooring(shared, "send", kept, "later", "--when-down", "queue", "--ttl", "60")
    assert ran.out.startswith("queued 1 message (first: number 1, until ") and ran.out.endswith(" UTC), 5 bytes\n")
    ran = await mooring(shared, "send", kept, "-", "--when-down", "queue", "-o", "json", stdin=b"a\nbc\n")
    told = json.loads(ran.out)
    assert (told.pop("expiresAt")[-1], told) == ("Z", {"queued": 2, "bytes": 3, "queueId": 2})

    opened = await mooring(shared, "open", echo.url, "--requests", "cdp", "--json")
    number = str(json.loads(opened.out)["id"])
    assert (await mooring(shared, "request", number, '{"result": 1}')).out == '{"result":1,"id":1}\n'
    ran = await mooring(shared, "request", number, '{"result": 2}', "-o", "json")
    assert json.loads(ran.out)["reply"] == {"result": 2, "id": 2}
    failed = await mooring(shared, "request", number, '{"error": "no"}')
    assert failed.code == 1 and '{"error":"no","id":3}' in failed.errors
    late = await mooring(shared, "request", number, '{"method": "x"}', "--timeout", "0.1")
    assert late.code == 1 and "no reply has come" in late.errors
    none = await mooring(shared, "request", kept, "{}")
    assert none.code == 1 and "without requests" in none.errors


async def test_the_client_has_both(shared: RunningService, echo: EchoServer) -> None:
    kept = await down(shared, echo)
    opened = await shared.open(echo.url, requests="cdp")
    async with Client(shared.url, shared.token) as client:
        with pytest.raises(ApiError) as refused:
            await client.send(kept, "now")
        assert refused.value.status == 409
        waits = await client.send(kept, {"later": 1}, when_down="queue", ttl=60)
        assert (waits.sent, waits.queued, waits.bytes, waits.queue_id) == (0, 1, 11, 1)
        lines = await client.send_lines(kept, [b'{"a":1}\n', b"2\n"], when_down="queue")
        assert (lines.queued, lines.queue_id) == (2, 2)
        assert (await client.drop_queue(kept)).messages == 3
        assert await client.send(opened["id"], "x") == Sent(1, 1)
        found = await client.send_request(opened["id"], {"result": [1]}, timeout=60)
        assert found.reply == {"result": [1], "id": 1} and found.event is not None

    def blocking() -> None:
        with BlockingClient(shared.url, shared.token) as client:
            assert client.send_request(opened["id"], '{"result": 2}').reply["result"] == 2
            assert client.drop_queue(kept).messages == 0

    await asyncio.to_thread(blocking)


async def test_what_is_said_of_waiting_is_checked(shared: RunningService, echo: EchoServer) -> None:
    plain = (await shared.open(echo.url))["id"]
    path = f"/v1/connections/{plain}/messages"
    text = {"Content-Type": "text/plain"}
    for query, pointer in {
        "whenDown=wait": "query:whenDown", "ttl=0": "query:ttl", "ttl=nan": "query:ttl", "ttl=soon": "query:ttl", "ttl=1e9": "query:ttl",
        "when_down=queue": "query:when_down",
    }.items():  # fmt: skip
        wrong = await shared.call("POST", f"{path}?{query}", 422, data="x", headers=text)
        assert wrong["errors"][0]["pointer"] == pointer, query
    assert (await shared.call("POST", f"{path}?whenDown=queue", 409, data="x", headers=text))["type"].endswith(
        ":not-kept"
    )
    for options, pointer in [
        ({"whenDown": "queue"}, "/whenDown"), ({"queueTtl": 5}, "/queueTtl"), ({"whenDown": "queue", "reconnect": False}, "/whenDown"),
        ({"queueTtl": 0, "reconnect": True}, "/queueTtl"), ({"queueTtl": 1e9, "reconnect": True}, "/queueTtl"),
        ({"requests": {"id": "/a", "reply": "/b", "when": {"nonsense": 1}}}, "/requests/when"),
        ({"requests": {"id": "/a", "reply": "b"}}, "/requests/reply"),
    ]:  # fmt: skip
        wrong = await shared.open(echo.url, 422, **options)
        assert wrong["errors"][0]["pointer"].startswith(pointer), options
    for body in ({"requests": {"id": "/a"}}, {"whenDown": "maybe", "reconnect": True}, {"requests": 7}):
        await shared.open(echo.url, 422, **body)
    asks = (await shared.open(echo.url, requests="cdp"))["id"]
    requests = f"/v1/connections/{asks}/requests"
    for query in ("timeout=0", "timeout=601", "timeout=nan", "timeout=x"):
        assert (await shared.call("POST", f"{requests}?{query}", 422, json={}))["errors"][0][
            "pointer"
        ] == "query:timeout"
    for text_body, status in (("{", 400), ("7", 422), ('{"id": {}}', 422), ('{"id": true}', 422)):
        await shared.call("POST", requests, status, data=text_body, headers={"Content-Type": "application/json"})
    await shared.call("POST", requests, 415, data="{}", headers=text)


async def test_lines_that_are_sent_to_a_service_that_goes_away_say_how_many_were_sent_before() -> None:
    answers = iter([b'{"sent":1,"bytes":1}', b'{"sent":1,"bytes":1}', None])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = next(answers)
        if body is not None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    command = [sys.executable, "-m", "mooring_api", "--url", where, "send", "1", "-"]
    async with server:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await asyncio.wait_for(process.communicate(b"a\nb\nc\n"), 60)
    assert (process.returncode, out) == (1, b"")
    assert errors.startswith(b"Error: no service answers at ") and errors.endswith(b"; 2 messages were sent before\n")
