"""The pure rooms of the worker: states, clocks, options, egress, the link's frames."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import struct
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mooring.connection.state import TRANSITIONS, ConnectionEvent, ConnectionState, step
from mooring.errors import LinkError
from mooring.events import blob_event, object_event, text_event
from mooring.link.channel import Channel, FrameSplitter, frame
from mooring.link.messages import Events, command_decoder, report_decoder
from mooring.link.outbox import Outbox
from mooring.options import (
    ConnectionRequest,
    TlsRequest,
    check_close,
    check_headers,
    check_protocols,
    check_request,
    check_url,
    check_worker_name,
    from_handler,
    resolve,
)
from mooring.process.repeats import Repeats
from mooring.state_table import IllegalTransition
from mooring.wire.dial import parse_deflate
from mooring.wire.egress import EgressPolicy, parse_entry
from mooring.wire.frames import Deflate
from mooring.wire.liveness import Dead, Liveness, Ping, Wait

# ------------------------------------------------------------ states


def test_every_pair_of_state_and_event_is_decided() -> None:
    accepted = {(state, event): target for state, row in TRANSITIONS.items() for event, target in row.items()}
    for state, event in itertools.product(ConnectionState, ConnectionEvent):
        if (state, event) in accepted:
            assert step(state, event) is accepted[state, event]
        else:
            with pytest.raises(IllegalTransition):
                step(state, event)
    assert not TRANSITIONS[ConnectionState.CLOSED], "closed is the end"
    for state in set(ConnectionState) - {ConnectionState.CLOSED}:
        assert TRANSITIONS[state][ConnectionEvent.ENDED] is ConnectionState.CLOSED


# ------------------------------------------------------------ liveness


def test_an_idle_peer_is_pinged_and_given_up_after_the_timeout() -> None:
    live = Liveness(20, 5, now=100)
    assert live.check(110) == Wait(120)
    assert live.check(120) == Ping()
    assert live.check(120) == Wait(125)
    assert live.check(125) == Dead(5)


def test_any_byte_is_life_also_in_the_pings_own_instant() -> None:
    for pong_at in (120, 120.5, 124.9):
        live = Liveness(20, 5, now=100)
        assert live.check(120) == Ping()
        live.last_byte_at = pong_at
        assert live.check(125) == Wait(pong_at + 20)


def test_the_deadline_stands_still_while_we_do_not_read() -> None:
    live = Liveness(20, 5, now=100)
    assert live.check(120) == Ping()
    live.paused(121)
    assert isinstance(live.check(200), Wait)
    live.resumed(221)
    assert not isinstance(live.check(221.5), Dead)


def test_interval_zero_never_pings() -> None:
    assert Liveness(0, 5, now=0).check(1e9) == Wait(float("inf"))


# ------------------------------------------------------------ options

GOOD_URLS = ["ws://a", "wss://a/", "ws://a:65535/x?y=1", "WS://a/", "ws://[::1]:80/", "ws://münchen.example/ü", "ws://127.0.0.1/a%20b"]  # fmt: skip
BAD_URLS = ["", "a", "http://a", "ws:a", "ws:/a", "ws://", "ws://a#", "ws://a/#x", "ws://u@a", "ws://u:p@a", "ws://a:0/", "ws://a:/", "ws://a:65536/", "ws://a:x/", "ws://a b/", "ws://a/\r\nX: y", "ws://a/\n", "ws://a\\b", "ws://[::1/", "ws://a/\x00", "ws://\ud800/", "file:///etc/passwd", "ws://" + "a" * 254, "ws://a/" + "x" * 9000, "javascript:alert(1)", "ws://a%00b/"]  # fmt: skip


@pytest.mark.parametrize("url", GOOD_URLS)
def test_urls_that_are_taken(url: str) -> None:
    assert check_url(url) == []


@pytest.mark.parametrize("url", BAD_URLS)
def test_urls_that_are_refused(url: str) -> None:
    (wrong,) = check_url(url)
    assert wrong.pointer == "/url"


def test_an_error_text_does_not_carry_the_query() -> None:
    for url in ("ws://a:x/?token=SECRET", "ws://[::1/?token=SECRET", "http://a?token=SECRET"):
        assert "SECRET" not in check_url(url)[0].detail


@pytest.mark.parametrize("code", [None, 1000, 3000, 4999])
def test_close_codes_that_may_be_sent(code: int | None) -> None:
    assert check_close(code, "x" * 123) == []


@pytest.mark.parametrize("code", [0, 999, 1001, 1004, 1005, 1006, 1015, 2999, 5000, 70000, -1, True])
def test_close_codes_that_may_not(code: int) -> None:
    assert check_close(code, None)


@pytest.mark.parametrize("reason", ["x" * 124, "ü" * 62, "\ud800"])
def test_close_reasons_that_do_not_fit(reason: str) -> None:
    assert check_close(1000, reason)


BAD_HEADERS = [{"": "x"}, {"A B": "x"}, {"A:": "x"}, {"Host": "x"}, {"host": "x"}, {"Connection": "x"}, {"Upgrade": "x"}, {"Sec-WebSocket-Key": "x"}, {"sec-websocket-extensions": "x"}, {"Content-Length": "0"}, {"Transfer-Encoding": "chunked"}, {"A": "x\r\ny"}, {"A": "x\0"}, {"A": "\n"}, {"A": ["ok", "x\ry"]}, {"A": []}, {"Cookie": ["a=1", "b=2"]}, {"A": "\ud800"}, {"Ä": "x"}, {f"X-{n}": "y" for n in range(10_000)}, {"A": "x" * 100_000}]  # fmt: skip


@pytest.mark.parametrize(
    "headers", BAD_HEADERS, ids=lambda headers: str(headers)[:30].encode("ascii", "replace").decode()
)
def test_headers_that_are_refused_without_quoting_a_value(headers: dict[str, object]) -> None:
    wrong = check_headers(headers)
    assert wrong
    assert len(wrong) <= 22
    assert all(error.pointer.startswith("/headers") for error in wrong)


def test_headers_that_are_taken() -> None:
    assert (
        check_headers({"Authorization": "Bearer x", "X": ["a", "b"], "Cookie": "a=1; b=2", "Y": "", "Z": "ümlaut"})
        == []
    )


@pytest.mark.parametrize("protocols", [["a,b"], [""], ["a b"], ["a", "a"], ["ä"], ["a"] * 51])
def test_subprotocols_that_are_refused(protocols: list[str]) -> None:
    assert check_protocols(protocols)


@pytest.mark.parametrize("name", ["a", "A9", "a.b_c-d", "x" * 63])
def test_worker_names_that_are_taken(name: str) -> None:
    assert check_worker_name(name) == []


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "_a", "a/b", "a b", "x" * 64, "ä", "a\n", "../../etc"])
def test_worker_names_that_are_refused(name: str) -> None:
    assert check_worker_name(name)


def _request(**options: object) -> ConnectionRequest:
    return ConnectionRequest(url="wss://a/", **options)


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"connect_timeout": 0.0}, "/connectTimeout"),
        ({"connect_timeout": float("nan")}, "/connectTimeout"),
        ({"connect_timeout": float("inf")}, "/connectTimeout"),
        ({"close_timeout": -1.0}, "/closeTimeout"),
        ({"ping_interval": -1.0}, "/pingInterval"),
        ({"ping_timeout": 0.0}, "/pingTimeout"),
        ({"send_timeout": 1e9}, "/sendTimeout"),
        ({"max_message_size": 0}, "/maxMessageSize"),
        ({"max_message_size": 2**70}, "/maxMessageSize"),
        ({"tls": TlsRequest(key_file="/k")}, "/tls/keyFile"),
        ({"tls": TlsRequest(ca_file="relative.pem")}, "/tls/caFile"),
    ],
)
def test_settings_out_of_range_point_at_their_place(options: dict[str, object], pointer: str) -> None:
    assert [wrong.pointer for wrong in check_request(_request(**options))] == [pointer]


def test_what_the_request_says_beats_what_the_handler_says() -> None:
    class Handler:
        data_type = "blob"
        headers = {"A": "handler", "B": "handler"}
        ping_interval = 7.0

    options = resolve(_request(headers={"a": "request"}, data_type="object"), Handler())
    assert options.data_type == "object"
    assert options.ping_interval_s == 7.0
    assert sorted((name.lower(), value) for name, value in options.headers) == [("a", "request"), ("b", "handler")]
    assert resolve(from_handler(Handler(), "ws://a"), Handler()).data_type == "blob"


@given(st.text(max_size=200))
def test_any_text_as_url_is_decided_without_an_exception(text: str) -> None:
    check_url(text)
    check_url("ws://" + text)


@given(
    st.dictionaries(st.text(max_size=20), st.text(max_size=20) | st.lists(st.text(max_size=20), max_size=3), max_size=5)
)
def test_any_headers_are_decided_and_what_passes_is_safe_on_the_wire(headers: dict[str, str | list[str]]) -> None:
    if check_headers(headers) == []:
        for name, value in headers.items():
            for item in [name, value] if isinstance(value, str) else [name, *value]:
                assert not set(item) & {"\r", "\n", "\0"}


# ------------------------------------------------------------ permessage-deflate


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("permessage-deflate", Deflate()),
        ("permessage-deflate; server_no_context_takeover", Deflate(server_no_context_takeover=True)),
        ("permessage-deflate; server_max_window_bits=10", Deflate(server_max_window_bits=10)),
        ('permessage-deflate; server_max_window_bits="8"', Deflate(server_max_window_bits=8)),
        ("permessage-deflate; server_max_window_bits=7", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; client_max_window_bits=10", Deflate(client_max_window_bits=10)),
        ("permessage-deflate; client_max_window_bits=8", None),
        ("permessage-deflate; client_max_window_bits=010", None),
        ("permessage-deflate; client_max_window_bits", None),
        ("permessage-deflate; unknown", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("x-webkit-deflate-frame", None),
    ],
)
def test_an_answer_to_our_offer_of_compression(answer: str, expected: Deflate | None) -> None:
    assert parse_deflate(answer) == expected


# ------------------------------------------------------------ egress

METADATA = ["169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16"]
HIDDEN = ["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1", "::a9fe:a9fe"]
OTHERS = ["0.0.0.0", "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "fe80::1", "169.254.1.1"]


@pytest.mark.parametrize("address", METADATA + HIDDEN + OTHERS)
def test_addresses_that_nobody_may_dial_unless_they_are_named(address: str) -> None:
    assert EgressPolicy().refusal("host", 80, address)
    assert EgressPolicy(allow=["host", "*"]).refusal("host", 80, address), "a host pattern opens no denied network"
    assert EgressPolicy(allow=["0.0.0.0/0", "::/0"]).refusal("host", 80, address), "nor does a network around it"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.0.0.1", "8.8.8.8", "2001:db8::1", "::ffff:127.0.0.1"])
def test_addresses_that_are_open_by_default(address: str) -> None:
    assert EgressPolicy().refusal("host", 80, address) is None


def test_a_denied_address_opens_when_allow_names_it() -> None:
    policy = EgressPolicy(allow=["169.254.169.254", "*"])
    assert policy.refusal("m", 80, "169.254.169.254") is None
    assert policy.refusal("m", 80, "169.254.169.253")


def test_deny_beats_allow_and_a_list_means_only_what_it_names() -> None:
    policy = EgressPolicy(allow=["*.example.com", "10.0.0.0/8"], deny=["bad.example.com", "10.1.0.0/16"])
    assert policy.refusal("good.example.com", 443, "93.184.216.34") is None
    assert policy.refusal("bad.example.com", 443, "93.184.216.34")
    assert policy.refusal("other.org", 443, "93.184.216.34")
    assert policy.refusal("x", 80, "10.2.3.4") is None
    assert policy.refusal("good.example.com", 80, "10.1.3.4")
    assert policy.refusal("x", 80, "::ffff:10.1.3.4"), "also in the mapped spelling"


@pytest.mark.parametrize("entry", ["", "10.0.0.0/33", "a b", "exa*mple..com/8"])
def test_entries_that_mean_nothing_are_errors(entry: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_entry(entry)


# ------------------------------------------------------------ the link


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 97))
def test_the_links_frames_come_out_as_they_went_in(payloads: list[bytes], step: int) -> None:
    data = b"".join(struct.pack(">I", len(payload)) + payload for payload in payloads)
    splitter = FrameSplitter()
    found: list[bytes] = []
    for at in range(0, len(data), step):
        found += [bytes(view) for view in splitter.feed(data[at : at + step])]
    assert found == payloads


def test_a_frame_over_the_bound_is_an_error_before_it_comes() -> None:
    with pytest.raises(LinkError):
        FrameSplitter(100).feed(struct.pack(">I", 101))


@given(st.binary(max_size=300))
@example(bytes.fromhex("91a180"))  # a text that is not UTF-8
@example(b"\x91" * 100_000)  # deeply nested
def test_garbage_on_the_link_ends_the_link_and_nothing_else(data: bytes) -> None:
    async def take(decoder: Any) -> Exception | None:
        lost: list[Exception | None] = []
        channel = Channel(decoder, lambda channel, messages: None, lambda channel, exc: lost.append(exc))
        channel.data_received(struct.pack(">I", len(data)) + data)
        channel.connection_lost(None)
        return lost[0]

    for decoder in (command_decoder, report_decoder):
        assert isinstance(asyncio.run(take(decoder)), LinkError | None)


def test_the_links_first_version_is_what_old_workers_will_speak() -> None:
    # Golden bytes: a change here breaks workers that hold old code; raise PROTOCOL_VERSION then.
    data = frame(Events(7, (3).to_bytes(8, "little"), b"\x02", b'{"x":1}', [], [], []))
    assert data.hex() == (
        "0000002399a6" + b"Events".hex() + "07c4080300000000000000c40102c407" + b'{"x":1}'.hex() + "90909000"
    )


# ------------------------------------------------------------ events as JSON


@given(st.text(max_size=100))
def test_text_becomes_json_on_one_line(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    event = text_event(text)
    assert b"\n" not in event and b"\r" not in event
    assert msgspec.json.decode(event)["data"] == text


@given(st.binary(max_size=100))
def test_blobs_become_base64_on_one_line(data: bytes) -> None:
    event = msgspec.json.decode(blob_event(data))
    assert event["encoding"] == "base64"
    assert b"\n" not in blob_event(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(json_values, st.sampled_from(["", " ", "\n", "\r\n  "]))
def test_objects_pass_as_they_came_but_on_one_line(value: object, space: str) -> None:
    text = json.dumps(value, indent=2 if space else None) + space
    event = object_event(text.encode())
    assert b"\n" not in event and b"\r" not in event
    assert json.loads(event)["data"] == value


# ------------------------------------------------------------ the outbox


class _Connection:
    def __init__(self, connection: int) -> None:
        self.id_bytes = connection.to_bytes(8, "little")
        self.recorded_seq = 0
        self.ended = False

    def take_created(self) -> None:
        return None

    def update(self) -> None:
        return None

    def mark_ended(self) -> None:
        self.ended = True


def _numbers(frames: list[bytes]) -> Iterator[int]:
    for data in frames:
        decoded = report_decoder.decode(data[4:])
        assert isinstance(decoded, Events)
        yield decoded.number


def test_a_frame_is_kept_byte_for_byte_until_it_is_stored() -> None:
    sent: list[bytes] = []
    link = [True]

    def send(data: bytes) -> bool:
        if link[0]:
            sent.append(data)
        return link[0]

    room: list[int] = []
    outbox = Outbox(1_000, send, lambda: room.append(1))
    one = _Connection(1)
    for n in range(3):
        outbox.add(one, b"\x02", b"%d" % n, n + 1)
        outbox.flush()
    assert list(_numbers(sent)) == [1, 2, 3]
    outbox.stored(1)
    link[0] = False
    outbox.add(one, b"\x02", b"x" * 2_000, 4)
    outbox.flush()
    assert outbox.full
    before = list(sent)
    sent.clear()
    link[0] = True
    outbox.resend(1)
    assert list(_numbers(sent)) == [2, 3, 4]
    assert sent[:2] == before[1:], "verbatim"
    assert not room
    outbox.stored(4)
    assert room == [1]
    assert outbox.held_frames == 0


# ------------------------------------------------------------ logs


def test_a_line_that_repeats_is_counted_instead_of_written(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("tests.repeats")
    log.addFilter(Repeats(window_s=0.2))
    with caplog.at_level(logging.INFO, log.name):
        for number in (*range(20), 20):
            if number == 20:
                time.sleep(0.25)
            log.info("the same, again: %d", number)
        log.info("another line")
    texts = [record.getMessage() for record in caplog.records]
    assert texts[:5] == [f"the same, again: {n}" for n in range(5)]
    assert texts[5:] == ["the same, again: 20 (15 lines like this one were not written)", "another line"]
    assert caplog.records[5].repeated == 15
