"""What worker and service say to each other, and that programs of two versions understand each other.

The frames of `GOLDEN` were made by the first version, and are never made anew: old workers send and read them for days.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any, get_args

import msgspec
import pytest

from mooring.bounds import HostLimit
from mooring.errors import ErrorEntry, Invalid
from mooring.link.held import HeldConnection, pack, read
from mooring.link.messages import (
    AskCall,
    AskIds,
    AskKill,
    Call,
    Called,
    CallFailed,
    Command,
    Events,
    Goodbye,
    GrantIds,
    Hello,
    LinkLimits,
    LinkRequest,
    Open,
    Opened,
    OpenFailed,
    OpenInvalid,
    Probe,
    Reconfigure,
    Reconnect,
    ReconnectDone,
    Refused,
    Report,
    Resent,
    Stats,
    Stop,
    Stored,
    Taken,
    Terminate,
    TerminateDone,
    Welcome,
    command_decoder,
    report_decoder,
)
from mooring.link.messages_changed import Change, Changed, LinkChanges
from mooring.link.messages_sent import (
    DropQueue,
    QueueDropped,
    Replied,
    RequestFailed,
    RequestTaken,
    Send,
    SendFailed,
    SendQueued,
    SendRequest,
    Sent,
)
from mooring.link.record import ConnectionCreated, ConnectionUpdate, Down, KeptUpdate, Terminated
from mooring.options import OPTIONS, ConnectionRequest, HandlerRequest, TlsRequest, effective, too_new
from tests.conftest import ROOT

CREATED = ConnectionCreated(
    7, "wss://a.test/x?y=1", "w", "quotes", "object", ["Authorization"], 1700000000000000, False, 3.5, 1.5
)
KEPT = ConnectionUpdate(
    8, "Reconnecting", 9,
    kept=KeptUpdate(
        3, 2, 1700000000500000, 1700000000600000, 1700000000700000,
        Down(1700000001000000, "waiting", 4, 1700000002000000, 1006, "gone", [ErrorEntry(204, "gone")], 7.5),
        250000, 1, 2, 3, 4, 5,
    ),
)  # fmt: skip
UPDATE = ConnectionUpdate(
    7, "Closed", 9, 5, 4, 300, 200, 1700000001000000, 1500, 1700000000500000, 1700000002000000, "v1",
    Terminated(1001, "bye", True), [ErrorEntry(204, "gone")], True,
)  # fmt: skip
FULL = ConnectionRequest(
    url="wss://a.test/x?y=1", worker="w", handler=HandlerRequest("quotes", {"a": 1}), data_type="object",
    headers={"Authorization": "Bearer x", "X": ["1", "2"]}, protocols=["v1"], connect_timeout=1.5, close_timeout=2.5,
    ping_interval=0, ping_timeout=3, max_message_size=1000, compress=True, send_timeout=4,
    tls=TlsRequest(ca_file="/ca.pem", verify=False),
)  # fmt: skip
GOLDEN: list[tuple[Any, str]] = [
    (Welcome(41, 256, 128), "lKdXZWxjb21lKc0BAMyA"),
    (Refused("no", True), "k6dSZWZ1c2Vkom5vww=="),
    (Stored(42), "kqZTdG9yZWQq"),
    (GrantIds(1, 2), "k6hHcmFudElkcwEC"),
    (Open(5, 7, FULL, "feeds:Quotes", 1700000000000000), "lqRPcGVuBQeOo3VybLJ3c3M6Ly9hLnRlc3QveD95PTGmd29ya2VyoXenaGFuZGxlcoKkbmFtZaZxdW90ZXOmcGFyYW1zgaFhAahkYXRhVHlwZaZvYmplY3SnaGVhZGVyc4KtQXV0aG9yaXphdGlvbqhCZWFyZXIgeKFYkqExoTKpcHJvdG9jb2xzkaJ2Ma5jb25uZWN0VGltZW91dMs/+AAAAAAAAKxjbG9zZVRpbWVvdXTLQAQAAAAAAACscGluZ0ludGVydmFsAKtwaW5nVGltZW91dAOubWF4TWVzc2FnZVNpemXNA+ioY29tcHJlc3PDq3NlbmRUaW1lb3V0BKN0bHOEpmNhRmlsZacvY2EucGVtqGNlcnRGaWxlwKdrZXlGaWxlwKZ2ZXJpZnnCrGZlZWRzOlF1b3Rlc88ABgokGB5AAA=="),
    (Open(6, 8, ConnectionRequest(url="ws://a")), "lqRPcGVuBgiDo3VybKZ3czovL2Gmd29ya2VypG1haW6naGFuZGxlcsDAAA=="),
    (Send(7, 7, True, [b"ab"], "k"), "lqRTZW5kBwfDkcQCYWKhaw=="),
    (Terminate(8, 7, 3001, "done"), "lalUZXJtaW5hdGUIB80LuaRkb25l"),
    (Call(9, "add", "m:add", [1, 2], "k"), "lqRDYWxsCaNhZGSlbTphZGSSAQKhaw=="),
    (Stop("told", 3.0), "k6RTdG9wpHRvbGTLQAgAAAAAAAA="),
    (Probe(3), "kqVQcm9iZQM="),
    (Reconfigure(["*.a"], ["b"], True, 5), "latSZWNvbmZpZ3VyZZGjKi5hkaFiwwU="),
    (Hello(1, 1, "b", "w", "inc", "s3cret", 123, 456, "boot", 43, [pack(HeldConnection(CREATED, UPDATE))], 2), "naVIZWxsbwEBoWKhd6NpbmOmczNjcmV0e80ByKRib290K5GSmgeyd3NzOi8vYS50ZXN0L3g/eT0xoXemcXVvdGVzpm9iamVjdJGtQXV0aG9yaXphdGlvbs8ABgokGB5AAMLLQAwAAAAAAADLP/gAAAAAAACfB6ZDbG9zZWQJBQTNASzMyM8ABgokGC2CQM0F3M8ABgokGCXhIM8ABgokGDzEgKJ2MYOkY29kZc0D6aZyZWFzb26jYnllqHdhc0NsZWFuw5GDp2VyckNvZGXMzKdtZXNzYWdlpGdvbmWyY29tcG9uZW50U2lnbmF0dXJlpE1PT1LDAg=="),
    (Resent(44), "kqZSZXNlbnQs"),
    (Events(45, b"\x07" + b"\0" * 7, b"\x01", b'{"a":1}', [CREATED], [UPDATE], [AskCall("v", "add", {"a": 1}), AskKill("v")], 1700000000000001), "maZFdmVudHMtxAgHAAAAAAAAAMQBAcQHeyJhIjoxfZGaB7J3c3M6Ly9hLnRlc3QveD95PTGhd6ZxdW90ZXOmb2JqZWN0ka1BdXRob3JpemF0aW9uzwAGCiQYHkAAwstADAAAAAAAAMs/+AAAAAAAAJGfB6ZDbG9zZWQJBQTNASzMyM8ABgokGC2CQM0F3M8ABgokGCXhIM8ABgokGDzEgKJ2MYOkY29kZc0D6aZyZWFzb26jYnllqHdhc0NsZWFuw5GDp2VyckNvZGXMzKdtZXNzYWdlpGdvbmWyY29tcG9uZW50U2lnbmF0dXJlpE1PT1LDkpSnQXNrQ2FsbKF2o2FkZIGhYQGSp0Fza0tpbGyhds8ABgokGB5AAQ=="),
    (Opened(5, 45), "k6ZPcGVuZWQFLQ=="),
    (OpenFailed(5, 45, [ErrorEntry(102, "refused")], True, False, True), "l6pPcGVuRmFpbGVkBS2Rg6dlcnJDb2RlZqdtZXNzYWdlp3JlZnVzZWSyY29tcG9uZW50U2lnbmF0dXJlpE1PT1LDwsM="),
    (OpenInvalid(5, [Invalid("/url", "bad")], 10), "lKtPcGVuSW52YWxpZAWRgqdwb2ludGVypC91cmymZGV0YWlso2JhZAo="),
    (Sent(7, 1, 2, 3, 4), "lqRTZW50BwECAwQ="),
    (SendFailed(7, 0, "Closing", True), "lapTZW5kRmFpbGVkBwCnQ2xvc2luZ8M="),
    (TerminateDone(8, 46), "k61UZXJtaW5hdGVEb25lCC4="),
    (Called(9, b"3", 47), "lKZDYWxsZWQJxAEzLw=="),
    (CallFailed(9, "E", "m", "t", True, False, 48, True), "mapDYWxsRmFpbGVkCaFFoW2hdMPCMMM="),
    (Stats(3, 1, 2, "on_message", 0.5, 1.25, 1000, 4, 5, 6, b"m", [UPDATE], 7), "nqVTdGF0cwMBAqpvbl9tZXNzYWdlyz/gAAAAAAAAyz/0AAAAAAAAzQPoBAUGxAFtkZ8HpkNsb3NlZAkFBM0BLMzIzwAGCiQYLYJAzQXczwAGCiQYJeEgzwAGCiQYPMSAonYxg6Rjb2RlzQPppnJlYXNvbqNieWWod2FzQ2xlYW7DkYOnZXJyQ29kZczMp21lc3NhZ2WkZ29uZbJjb21wb25lbnRTaWduYXR1cmWkTU9PUsMH"),
    (AskIds(), "kaZBc2tJZHM="),
    (Goodbye(1, 2), "k6dHb29kYnllAQI="),
]  # fmt: skip
OUR_OWN = {
    "Welcome",
    "Call",
    "Open",
    "OpenFailed",
    "OpenInvalid",
    "Send",
    "SendFailed",
    "Probe",
    "Stop",
    "Stored",
    "Reconfigure",
    "Hello",
    "Events",
    "Stats",
}
"""What has fields more today, itself or in what it holds: the first version skips them."""
SINCE = [
    (Probe(4, 12.5), "k6VQcm9iZQTLQCkAAAAAAAA="),
    (Taken(7), "kqVUYWtlbgc="),
    (Reconnect(10, 7, 0.5, 3001, "why", True), "l6lSZWNvbm5lY3QKB8s/4AAAAAAAAM0LuaN3aHnD"),
    (ReconnectDone(10, 49, "Connected", False), "la1SZWNvbm5lY3REb25lCjGpQ29ubmVjdGVkwg=="),
    (SendQueued(7, 50, 2, 10, 3, 1700000000000000), "l6pTZW5kUXVldWVkBzICCgPPAAYKJBgeQAA="),
    (DropQueue(11, 7), "k6lEcm9wUXVldWULBw=="),
    (QueueDropped(11, 51, "Connected", 2, 10), "lqxRdWV1ZURyb3BwZWQLM6lDb25uZWN0ZWQCCg=="),
    (Send(7, 7, False, [b"ab"], None, "queue", 1.5), "mKRTZW5kBwfCkcQCYWLApXF1ZXVlyz/4AAAAAAAA"),
    (SendFailed(7, 0, "Reconnecting", False, "full"), "lqpTZW5kRmFpbGVkBwCsUmVjb25uZWN0aW5nwqRmdWxs"),
    (SendRequest(12, 7, b"{}", 1.5, "k", True), "l6tTZW5kUmVxdWVzdAwHxAJ7fcs/+AAAAAAAAKFrww=="),
    (Replied(12, 52, 9, b"{}", True, 2.5), "l6dSZXBsaWVkDDQJxAJ7fcPLQAQAAAAAAAA="),
    (RequestFailed(12, "timeout", "Connected"), "lK1SZXF1ZXN0RmFpbGVkDKd0aW1lb3V0qUNvbm5lY3RlZA=="),
    (RequestTaken(12, 3), "k6xSZXF1ZXN0VGFrZW4MAw=="),
    (Change(12, 7, LinkChanges(url="ws://b/", headers=None)), "lKZDaGFuZ2UMB4KjdXJsp3dzOi8vYi+naGVhZGVyc8A="),
    (
        Changed(12, 7, 52, "Connected", True, None, [Invalid("/url", "no")], "feed", "b.test"),
        "m6dDaGFuZ2VkDAc0qUNvbm5lY3RlZMPAkYKncG9pbnRlcqQvdXJspmRldGFpbKJub6RmZWVkpmIudGVzdMI=",
    ),
    (
        Stats(updates=[KEPT]),
        "nqVTdGF0cwAAAMDLAAAAAAAAAADLAAAAAAAAAAAAAAAAxACR3AAQCKxSZWNvbm5lY3RpbmcJAAAAAMDAwMDAwJDCnAMCzwAGCiQYJeEgzwAGCiQYJ2fAzwAGCiQYKO5gmM8ABgokGC2CQKd3YWl0aW5nBM8ABgokGDzEgM0D7qRnb25lkYOnZXJyQ29kZczMp21lc3NhZ2WkZ29uZbJjb21wb25lbnRTaWduYXR1cmWkTU9PUstAHgAAAAAAAM4AA9CQAQIDBAUA",
    ),
    (
        Reconfigure([], [], False, 5, LinkLimits(rate=2.5, hosts={"a": HostLimit(0.9)})),
        "lqtSZWNvbmZpZ3VyZZCQwgWEpHJhdGXLQAQAAAAAAAClYnVyc3QKp2F0X29uY2UgpWhvc3RzgaFhgqRyYXRlyz/szMzMzMzNpWJ1cnN0wA==",
    ),
]
"""Messages that came later, each with its first frame: one of an older program is sent none of them."""


class OldWelcome(msgspec.Struct, frozen=True, tag="Welcome", array_like=True):
    """As the first version reads it."""

    stored: int
    first_id: int
    id_count: int


def _decoded(frame: bytes) -> Any:
    try:
        return command_decoder.decode(frame)
    except msgspec.ValidationError:
        return report_decoder.decode(frame)


def _name(value: object) -> str:
    return type(value).__name__ if isinstance(value, msgspec.Struct) else ""


def test_every_message_has_its_frame_of_the_first_version() -> None:
    today = {kind.__name__ for kind in (*get_args(Command), *get_args(Report))}
    assert today == {_name(message) for message, _ in GOLDEN + SINCE}, (
        "a new message stands here, too, with a frame of its own"
    )


@pytest.mark.parametrize(("message", "frame"), GOLDEN + SINCE, ids=_name)
def test_a_frame_of_the_first_version_means_what_it_meant(message: Any, frame: str) -> None:
    found = _decoded(base64.b64decode(frame))
    assert type(found) is type(message)
    assert _values(found) == _values(message)


@pytest.mark.parametrize(("message", "frame"), GOLDEN + SINCE, ids=_name)
def test_a_frame_of_today_is_one_of_the_first_version(message: Any, frame: str) -> None:
    today = msgspec.msgpack.decode(msgspec.msgpack.encode(message))
    if _name(message) not in OUR_OWN:
        # By value: the count of a Struct's fields is written as wide as all of them would need, also where most are unset.
        assert today == msgspec.msgpack.decode(base64.b64decode(frame))
    assert _begins_with(today, msgspec.msgpack.decode(base64.b64decode(frame)))


def _values(message: Any) -> Any:
    if isinstance(message, Hello):
        return [
            msgspec.to_builtins(msgspec.structs.replace(message, connections=[])),
            [*map(read, message.connections)],
        ]
    return msgspec.to_builtins(message)


def _begins_with(new: Any, old: Any) -> bool:
    """Say whether `new` is `old`, but for more at the end of its arrays."""
    if isinstance(new, list) and isinstance(old, list):
        return len(new) >= len(old) and all(map(_begins_with, new, old))
    return bool(new == old)


def test_the_first_version_reads_our_welcome() -> None:
    frame = msgspec.msgpack.encode(Welcome(41, 256, 128, 2))
    assert msgspec.msgpack.decode(frame, type=OldWelcome) == OldWelcome(41, 256, 128)
    (old,) = (base64.b64decode(frame) for message, frame in GOLDEN if isinstance(message, Welcome))
    assert _decoded(old).version == 1


def test_what_a_newer_service_asks_for_beyond_what_we_know_is_skipped() -> None:
    known = msgspec.to_builtins(FULL)
    newer = {
        **known,
        "telepathy": {"opening": []},
        "handler": {**known["handler"], "since": 3},
        "tls": {**known["tls"], "alpn": ["x"]},
    }
    found = command_decoder.decode(
        msgspec.msgpack.encode(["Open", 5, 7, newer, "feeds:Quotes", 1, None, False, "a field more"])
    )
    assert isinstance(found, Open)
    assert isinstance(found.connection_request, ConnectionRequest)
    assert msgspec.to_builtins(found.connection_request) == known
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(newer, ConnectionRequest)


def _structs(kind: Any, seen: set[type]) -> Iterator[type[msgspec.Struct]]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in seen:
        seen.add(kind)
        yield kind
        for field in msgspec.structs.fields(kind):
            yield from _structs(field.type, seen)
    for argument in get_args(kind):
        yield from _structs(argument, seen)


def test_nothing_on_the_link_forbids_what_it_does_not_know() -> None:
    found = list(_structs(Command | Report | HeldConnection, set()))
    assert LinkRequest in found
    assert [kind.__name__ for kind in found if kind.__struct_config__.forbid_unknown_fields] == []


def test_an_option_is_asked_only_of_a_worker_that_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert too_new(FULL, 1) == []
    newer = msgspec.structs.replace(OPTIONS["compress"], since=9)
    monkeypatch.setitem(OPTIONS, "compress", newer)
    assert too_new(FULL, 8) == ["compress"]
    assert too_new(FULL, 9) == []
    assert too_new(ConnectionRequest(url="ws://a"), 1) == []
    assert too_new(ConnectionRequest(url="ws://a", reconnect=True), 2) == ["reconnect"]
    # A value that came later breaks the link of an older worker as a key does.
    assert too_new(ConnectionRequest(url="ws://a", data_type="auto"), 1) == ["dataType 'auto'"]
    assert too_new(ConnectionRequest(url="ws://a", data_type="auto"), 2) == []


def test_the_record_of_what_is_opened_is_the_same_on_both_floors() -> None:
    made = ConnectionCreated.of(7, "w", "quotes", 5, effective(FULL))
    assert made.kept is None
    assert made == ConnectionCreated(7, FULL.url, "w", "quotes", "object", ["Authorization", "X"], 5, False, 4.0, 2.5)
    # One function beside the Struct makes it; nobody counts its positions.
    places = [
        path.name
        for folder in ("workers/mooring", "service/mooring_service")
        for path in (ROOT / folder).rglob("*.py")
        if re.search(r"\b(?<!class )ConnectionCreated\(", path.read_text())
    ]
    assert places == []
