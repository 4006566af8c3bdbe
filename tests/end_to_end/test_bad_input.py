"""The table of bad input: each row gets a 4xx problem that helps; never a 500, never a traceback."""

from __future__ import annotations

import gzip
import json
from typing import NamedTuple

import aiohttp
import pytest
from yarl import URL

from tests.conftest import RunningService, as_file
from tests.servers import EchoServer

SERVICE = (("--function", "f=json:loads"), {"MOORING_LIMITS_MAX_BODY_BYTES": "1000000"})


GOOD = '"url":"ws://127.0.0.1:9/"'


DEEP = "[" * 10_000 + "]" * 10_000


class Row(NamedTuple):
    name: str
    status: int
    type: str
    body: bytes | str = ""
    hint: str = ""  # must stand in the problem
    method: str = "POST"
    path: str = "/v1/connections"
    headers: dict[str, str] = {"Content-Type": "application/json"}


def create(name: str, status: int, body: bytes | str, hint: str = "") -> Row:
    return Row(name, status, "bad-request" if status == 400 else "invalid", body, hint)


def url(text: str, name: str | None = None) -> Row:
    return create(f"url {name or text}", 422, json.dumps({"url": text}), "/url")


def option(text: str, pointer: str, name: str = "") -> Row:
    return create(name or text[:40], 422, "{" + GOOD + "," + text + "}", pointer)


JSON_BODIES = [
    create("empty", 400, ""),
    create("not JSON", 400, "{url: 1}", "line 1"),
    create("cut off", 400, '{"url": "ws://a'),
    create("a list", 422, "[]"),
    create("null", 422, "null"),
    create("no url", 422, "{}", "url"),
    create("unknown key", 422, "{" + GOOD + ', "headerz": {}}', "unknown key 'headerz'; did you mean 'headers'?"),
    create("twice the same key", 400, "{" + GOOD + "," + GOOD + "}", "twice"),
    create("NaN", 400, "{" + GOOD + ', "pingInterval": NaN}', "NaN"),
    create("Infinity", 400, "{" + GOOD + ', "pingInterval": Infinity}'),
    create("2^70", 422, "{" + GOOD + ', "maxMessageSize": 1180591620717411303424}', "maxMessageSize"),
    create("-1", 422, "{" + GOOD + ', "maxMessageSize": -1}', "/maxMessageSize"),
    create("1e400", 422, "{" + GOOD + ', "pingInterval": 1e400}', "/pingInterval"),
    create("10,000 deep", 400, DEEP, "deep"),
    create("deep params", 400, "{" + GOOD + ', "handler": {"name": "h", "params": ' + DEEP + "}}", "deep"),
    create("lone surrogate", 400, '{"url": "ws://a/\\ud800"}', "surrogate"),
    create("byte order mark", 400, b"\xef\xbb\xbf{" + GOOD.encode() + b"}", "byte order mark"),
    create("UTF-16", 400, ("{" + GOOD + "}").encode("utf-16")),
    create("Latin-1", 400, '{"url": "ws://münchen/"}'.encode("latin-1"), "UTF-8"),
    create("NUL", 400, b'{"url": "ws://a/\x00"}'),
    create("two values", 400, "{" + GOOD + "} {}"),
    option('"worker": 5', "/worker"),
    option('"dataType": "xml"', "/dataType"),
    option('"compress": "yes"', "/compress"),
    option('"connectTimeout": 0', "/connectTimeout"),
    option('"connectTimeout": "5"', "/connectTimeout"),
    option('"closeTimeout": -1', "/closeTimeout"),
    option('"tls": {"verify": false}', "/tls"),
    option('"tls": {"nosuch": 1}', "/tls"),
    option('"handler": "Chat"', "/handler"),
    option('"handler": {}', "name"),
]


URLS = [
    url(""), url("http://a/"), url("file:///etc/passwd"), url("ws:/a"), url("ws://"), url("ws://a/#f"), url("ws://a#"),
    url("ws://u:p@a/"), url("ws://@a/"), url("ws://a\r\nX: y/", "with CRLF"), url("ws://a/\n", "with LF"), url("ws://a b/", "with space"),
    url("ws://a:0/"), url("ws://a:99999/"), url("ws://a:/"), url("ws://[::1/"), url("ws://[zz]/"), url("ws://a\\b/"),
    url("ws://" + "a" * 300 + "/", "with a long host"), url("ws://a/" + "x" * 10_000, "that is long"), url("ws://a%2fb/"), url("WebSocket://a/"),
]  # fmt: skip


HEADERS = [
    option('"headers": {"A": "x\\r\\nB: y"}', "/headers/A"),
    option('"headers": {"A": "x\\u0000"}', "/headers/A"),
    option('"headers": {"A B": "x"}', "/headers"),
    option('"headers": {"": "x"}', "/headers"),
    option('"headers": {"Host": "x"}', "/headers/Host"),
    option('"headers": {"connection": "x"}', "/headers/connection"),
    option('"headers": {"Upgrade": "x"}', "/headers/Upgrade"),
    option('"headers": {"Sec-WebSocket-Protocol": "x"}', "protocols"),
    option('"headers": {"Content-Length": "0"}', "/headers"),
    option('"headers": {"Transfer-Encoding": "x"}', "/headers"),
    option('"headers": {"A": 5}', "/headers"),
    option('"headers": {"A": []}', "/headers/A"),
    option('"headers": {"Cookie": ["a=1", "b=2"]}', "/headers/Cookie"),
    option('"headers": [["A", "x"]]', "/headers"),
    option('"headers": {' + ",".join(f'"X{n}":"y"' for n in range(10_000)) + "}", "/headers", "10,000 headers"),
    option('"protocols": ["a,b"]', "/protocols/0"),
    option('"protocols": ["a b"]', "/protocols/0"),
    option('"protocols": [""]', "/protocols/0"),
    option('"protocols": ["a", "a"]', "/protocols/1"),
    option('"protocols": "a"', "/protocols"),
]


RECONNECT = [
    option(f'"reconnect": {text}', pointer)
    for text, pointer in (
        ('"yes"', "/reconnect"),
        ("1", "/reconnect"),
        ('{"minDelay": 0.04}', "/reconnect/minDelay"),
        ('{"minDelay": 3601}', "/reconnect/minDelay"),
        ('{"minDelay": 5, "maxDelay": 4}', "/reconnect/minDelay"),
        ('{"maxDelay": 0}', "/reconnect/maxDelay"),
        ('{"maxDelay": 86401}', "/reconnect/maxDelay"),
        ('{"minUptime": -1}', "/reconnect/minUptime"),
        ('{"minUptime": 3601}', "/reconnect/minUptime"),
        ('{"giveUpAfter": -1}', "/reconnect/giveUpAfter"),
        ('{"giveUpAfter": 31536001}', "/reconnect/giveUpAfter"),
        ('{"first": "always"}', "/reconnect/first"),
        ('{"stopCodes": [1002, 999]}', "/reconnect/stopCodes/1"),
        ('{"stopCodes": [5000]}', "/reconnect/stopCodes/0"),
        ('{"refusedCodes": [0]}', "/reconnect/refusedCodes/0"),
        ('{"refusedCodes": "4401"}', "/reconnect/refusedCodes"),
        ('{"retryStatuses": [301]}', "/reconnect/retryStatuses/0"),
        ('{"retryStatuses": [404, 600]}', "/reconnect/retryStatuses/1"),
        ('{"retryStatuses": ["4xx"]}', "/reconnect/retryStatuses/0"),
        ('{"persist": 1}', "/reconnect/persist"),
        ('{"persist": true}, "headers": {"A": "literal"}', "/headers/A"),
        ('{"mindelay": 1}', "/reconnect/mindelay: unknown key 'mindelay'; did you mean 'minDelay'?"),
        ('false, "whenDown": "queue"', "/whenDown"),
        ('true, "queueTtl": 0', "/queueTtl"),
        ('true, "headers": {"A": "${secret:nobody}"}', "/headers/A"),
        ('true, "name": "17"', "/name"),
        ('true, "name": "' + "x" * 64 + '"', "/name"),
    )
]


WORKERS = [
    option(f'"worker": {json.dumps(name)}', "/worker", f"worker {name[:20]!r}")
    for name in ("", "a/b", "..", ".", "-a", "a b", "x" * 64, "ä", "a\n", "../../etc/passwd")
] + [
    Row(f"PUT worker {name}", 422, "invalid", method="PUT", path=f"/v1/workers/{name}")
    for name in ("%2e%2e", "x" * 64, "a%20b", "%00")
]


REQUESTS = [
    Row("create without a type", 415, "unsupported-media-type", "{}", headers={}),
    Row("create as a form", 415, "unsupported-media-type", "url=x", headers={"Content-Type": "application/x-www-form-urlencoded"}),
    Row("create as text", 415, "unsupported-media-type", "{}", headers={"Content-Type": "text/plain"}),
    Row("gzip bomb", 415, "unsupported-media-type", gzip.compress(b"0" * 2_000_000), headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}),
    Row("too large", 413, "too-large", b'"' + b"x" * 1_100_000 + b'"'),
    Row("send to an unknown id", 404, "connection-not-found", "x", path="/v1/connections/99/messages", headers={"Content-Type": "text/plain"}),
    *(Row(f"id {text}", 404, "connection-not-found", method="GET", path=f"/v1/connections/{text}") for text in ("0", "-1", "x", "1.5", "99999999999999999999", "%31%00", "1e3")),
    Row("unknown query", 422, "invalid", method="GET", path="/v1/connections?colour=red", hint="colour"),
    Row("bad status filter", 422, "invalid", method="GET", path="/v1/connections?status=Open", hint="Connected"),
    *(Row(f"limit {text}", 422, "invalid", method="GET", path=f"/v1/connections?limit={text}", hint="limit") for text in ("0", "-1", "x", "1001", "1e3", "", "%D9%A1")),
    *(Row(f"wait {text}", 422, "invalid", method="GET", path=f"/v1/events?wait={text}", hint="wait") for text in ("-1", "x", "nan", "inf", "1e9")),
    Row("bad kind", 422, "invalid", method="GET", path="/v1/events?kind=onClose", hint="onTerminate"),
    Row("bad connection filter", 422, "invalid", method="GET", path="/v1/events?connection=-x"),
    *(Row(f"{name} twice", 422, "invalid", method="GET", path=f"/v1/{path}", hint="twice") for name, path in (("limit", "connections?limit=1&limit=2"), ("after", "events?after=start&after=now"), ("status", "connections?status=Closed&status=Connected"))),
    *(Row(f"worker filter {text!r}", 422, "invalid", method="GET", path=f"/v1/{path}?worker={text}", hint="query:worker") for text in ("", "a/b", "a%20b", "..") for path in ("events", "connections")),
    Row("connection filter 0", 422, "invalid", method="GET", path="/v1/events?connection=0"),
    *(Row(f"unknown query of {method} {path}", 422, "invalid", "x", method=method, path=f"/v1/{path}?colour=red", hint="colour", headers={"Content-Type": "text/plain"}) for method, path in (("POST", "connections/1/messages"), ("PUT", "workers/main"), ("POST", "backup"), ("POST", "workers/main/drain"))),
    Row("accept nothing we have", 406, "not-acceptable", method="GET", path="/v1/events", headers={"Accept": "image/png"}),
    Row("wrong method", 405, "method-not-allowed", method="PATCH", path="/v1/connections"),
    Row("nothing there", 404, "not-found", method="GET", path="/v2/connections"),
    Row("path traversal", 404, "not-found", method="GET", path="/console/..%2f..%2fserve.py"),
    Row("no UTF-8 in the path", 404, "connection-not-found", method="GET", path="/v1/connections/%ff%fe"),
    Row("call of an unknown function", 422, "unknown-function", '{"function": "g"}', path="/v1/workers/main/calls"),
    Row("call with bad params", 422, "invalid", '{"function": "f", "params": "x"}', path="/v1/workers/main/calls", hint="params"),
    Row("call with unknown key", 422, "invalid", '{"function": "f", "args": []}', path="/v1/workers/main/calls", hint="args"),
]  # fmt: skip


ROWS = JSON_BODIES + URLS + HEADERS + RECONNECT + WORKERS + REQUESTS


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_bad_input_is_a_problem_that_helps(shared: RunningService, row: Row) -> None:
    data = row.body.encode("utf-8", "surrogatepass") if isinstance(row.body, str) else row.body
    target = URL(shared.url + row.path, encoded=True)
    async with shared.client.request(
        row.method, target, data=as_file(data) if data else None, headers=row.headers
    ) as response:
        text = await response.text()
        assert response.status == row.status, text
        assert response.headers["Content-Type"].startswith("application/problem+json")
        assert response.headers["Server"] == "mooring"
    problem = json.loads(text)
    assert problem["type"] == f"urn:mooring:problem:{row.type}", problem
    assert problem["status"] == row.status and problem["title"] and problem["detail"]
    assert row.hint in text
    assert "Traceback" not in text


SENDS = [
    ("text that is not UTF-8", b"\xff\xfe", "text/plain", 400),
    ("object that is not JSON", b"{a}", "application/json", 400),
    ("object with NaN", b"[NaN]", "application/json", 400),
    ("object 10,000 deep", DEEP.encode(), "application/json", 400),
    ("object with a byte order mark", b"\xef\xbb\xbf{}", "application/json", 400),
    ("nothing as object", b"", "application/json", 400),
    ("two objects", b"{} {}", "application/json", 400),
    ("no content type", b"x", "", 415),
    ("an unknown type", b"x", "text/html", 415),
    ("a broken type", b"x", "/", 415),
    ("text in Latin-1", b"x", "text/plain; charset=latin-1", 415),
    ("too large", b"x" * 1_100_000, "text/plain", 413),
    ("a line that is not JSON", b"{}\n{a}\n", "application/x-ndjson", 400),
    ("a line that is too long", b'"' + b"x" * 1_100_000 + b'"\n', "application/x-ndjson", 413),
]


@pytest.mark.parametrize(("name", "body", "kind", "status"), SENDS, ids=[row[0] for row in SENDS])
async def test_messages_that_are_not_what_their_type_says(
    shared: RunningService, echo: EchoServer, name: str, body: bytes, kind: str, status: int
) -> None:
    record = await shared.open(echo.url)
    headers = {"Content-Type": kind} if kind else {}
    async with shared.client.post(
        f"/v1/connections/{record['id']}/messages",
        data=as_file(body),
        headers=headers,
        skip_auto_headers=["Content-Type"],
    ) as response:
        text = await response.text()
        assert response.status == status, text
    if "line" in name:
        assert json.loads(text)["sent"] == (1 if "not JSON" in name else 0)
    else:
        assert echo.peers[0].received == []
    await shared.call("DELETE", f"/v1/connections/{record['id']}")


@pytest.mark.parametrize(
    "code",
    ["0", "999", "1004", "1005", "1006", "1015", "2999", "5000", "70000", "true", "%221000%22", "1e3", "-1000", ""],
)
async def test_close_codes_that_are_refused(shared: RunningService, echo: EchoServer, code: str) -> None:
    record = await shared.open(echo.url)
    problem = await shared.call("DELETE", f"/v1/connections/{record['id']}?code={code}", 422)
    assert problem["errors"][0]["pointer"] == "query:code"
    assert (await shared.record(record["id"]))["status"] == "Connected", "the socket is not touched"
    await shared.call("DELETE", f"/v1/connections/{record['id']}?reason={'x' * 124}", 422)
    await shared.call("DELETE", f"/v1/connections/{record['id']}?reason={'%C3%BC' * 62}", 422)
    await shared.call("DELETE", f"/v1/connections/{record['id']}?reason={'x' * 123}")


@pytest.mark.parametrize("reason", ["%C3", "abc%C3", "%ED%A0%80", "%ff", "%C0%AF"])
async def test_a_reason_whose_escapes_are_not_utf_8_is_refused_and_the_socket_untouched(
    shared: RunningService, echo: EchoServer, reason: str
) -> None:
    record = await shared.open(echo.url)
    path = URL(f"{shared.url}/v1/connections/{record['id']}?code=4000&reason={reason}", encoded=True)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {shared.token}"}) as client:
        async with client.delete(path) as response:
            assert response.status == 400, await response.text()
            assert (await response.json())["type"] == "urn:mooring:problem:bad-request"
    assert (await shared.record(record["id"]))["status"] == "Connected"
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {shared.token}"}) as client:
        async with client.delete(URL(f"{path.with_query(None)}?reason=%C3%BC%25", encoded=True)) as response:
            assert response.status == 200


@pytest.mark.parametrize("cursor", ["%00", "a%0Ab", "-1", "9223372036854775808", "x" * 5_000, "%ff", "0-0-0", "start2"])
async def test_any_cursor_is_a_gap_and_never_an_error(shared: RunningService, cursor: str) -> None:
    page = await shared.get(f"/v1/events?after={cursor}&limit=1")
    assert page["events"][0]["kind"] == "gap"


async def test_nothing_was_begun(shared: RunningService) -> None:
    assert (await shared.get("/v1/connections?status=Connecting"))["connections"] == []


async def test_the_service_has_logged_no_traceback(shared: RunningService) -> None:
    assert "Traceback" not in shared.log(), shared.log()[-3000:]
