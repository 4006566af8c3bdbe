"""The SSE encoder: whatever the events hold, a parser that follows the standard gets exactly them back."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mooring.events import Kind, body_prefix, connection_body, now_us, text_event
from mooring_api.rest.sse import MANY, PREAMBLE, ndjson, sse
from mooring_service.feed import Selection
from mooring_service.journal.batch import Batch
from mooring_service.render import objects


def parse(stream: str) -> list[tuple[str, str, str]]:
    """WHATWG HTML section 9.2.6, as far as it concerns us: lines end at CR, LF or CRLF."""
    events: list[tuple[str, str, str]] = []
    kind = data = last_id = ""
    for line in stream.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                events.append((last_id, kind, data))
            kind = data = ""
        elif name == "data":
            data += value
        elif name == "event":
            kind = value
        elif name == "id":
            last_id = value
    return events


def batch_of(texts: list[str], kinds: list[Kind]) -> Batch:
    prefix = body_prefix(Kind.onMessage, 7, "w")
    bodies = [connection_body(prefix, seq, now_us(), text_event(text)) for seq, text in enumerate(texts, 1)]
    return Batch(
        first=41, worker="w", connections=(7).to_bytes(8, "little") * len(texts), kinds=bytes(kinds),
        bodies=b"\n".join(bodies), time_ms=0,
    )  # fmt: skip


texts = st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=3 * MANY)


@given(texts, st.data())
def test_any_texts_come_back_whole_in_order_with_their_ids(found: list[str], data: st.DataObject) -> None:
    kinds = data.draw(
        st.lists(st.sampled_from([Kind.onMessage, Kind.onOpen]), min_size=len(found), max_size=len(found))
    )
    batch = batch_of(found, kinds)
    indices = data.draw(st.none() | st.lists(st.integers(0, len(found) - 1), unique=True).map(sorted))
    selection = Selection(batch, indices)
    wanted = list(range(len(found))) if indices is None else indices
    events = parse((PREAMBLE + sse(selection, b"e1")).decode())
    assert [event[0] for event in events] == [f"e1-{41 + at}" for at in wanted]
    assert [event[1] for event in events] == [kinds[at].name for at in wanted]
    assert [json.loads(event[2])["event"]["data"] for event in events] == [found[at] for at in wanted]
    lines = ndjson(selection, b"e1").decode().split("\n")[:-1]
    assert [json.loads(line) for line in lines] == [json.loads(event[2]) for event in events]
    assert [json.loads(body) for _, body in objects(selection, b"e1")] == [json.loads(event[2]) for event in events]


def test_a_batch_as_a_whole_is_what_its_events_are_one_by_one() -> None:
    for count in range(1, 3 * MANY):
        kinds = [Kind.onOpen, *[Kind.onMessage] * (count - 1)]
        for texts in (["x"] * count, [""] * count):
            batch = batch_of(texts, kinds)
            for render in (sse, ndjson):
                one_by_one = [render(Selection(batch, [at]), b"e1") for at in range(count)]
                assert render(Selection(batch, None), b"e1") == b"".join(one_by_one)
