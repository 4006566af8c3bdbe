"""The states of a kept connection, and its law: random walks whose events must read as the law says."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.connection.keep import Ended, Keeper, Redial
from mooring.connection.kept_state import (
    MAY_QUEUE,
    ORDERS_REDIAL,
    TRANSITIONS,
    UNDER_WAY,
    KeptEvent,
    KeptState,
    phase,
    records,
    status,
    step,
)
from mooring.errors import ErrCode
from mooring.kept_options import ReconnectRequest
from mooring.state_table import IllegalTransition
from mooring.staying import resolve

S, E = KeptState, KeptEvent

DECIDED = {
    # state: T(ICKET) RENEW DIAL HANDSHAKE READY RETRY REDIAL WORKER_GONE CLOSE ENDED
    S.CONNECTING: (S.LIMITED, S.RENEWING, S.DIALLING, None, None, None, None, S.BLOCKED, None, S.CLOSED),
    S.WAITING: (S.LIMITED, None, None, None, None, None, None, S.BLOCKED, None, S.CLOSED),
    S.LIMITED: (None, S.RENEWING, S.DIALLING, None, None, None, None, S.BLOCKED, None, S.CLOSED),
    S.RENEWING: (None, None, S.DIALLING, None, None, S.WAITING, None, S.BLOCKED, None, S.CLOSED),
    S.DIALLING: (None, None, None, S.OPENING, None, S.WAITING, None, S.BLOCKED, None, S.CLOSED),
    S.OPENING: (None, None, None, None, S.CONNECTED, S.WAITING, None, S.BLOCKED, None, S.CLOSED),
    S.CONNECTED: (None, None, None, None, None, S.WAITING, S.LIMITED, S.BLOCKED, S.CLOSING, S.CLOSED),
    S.BLOCKED: (S.LIMITED, None, None, None, None, None, None, S.BLOCKED, None, S.CLOSED),
    S.CLOSING: (None, None, None, None, None, None, None, None, None, S.CLOSED),
    S.CLOSED: (None,) * 10,
}
"""The whole table once more, by hand and in another shape: None is refused."""


def test_every_pair_of_state_and_event_is_decided() -> None:
    assert set(DECIDED) == set(TRANSITIONS) == set(KeptState)
    for state, event in itertools.product(KeptState, KeptEvent):
        expected = DECIDED[state][list(KeptEvent).index(event)]
        if expected is not None:
            assert step(state, event) is expected
        else:
            with pytest.raises(IllegalTransition):
                step(state, event)


def test_each_state_has_its_public_status_and_its_phase() -> None:
    assert [(state.name, status(state, 0), status(state, 1), phase(state)) for state in KeptState] == [
        ("CONNECTING", "Connecting", "Reconnecting", None),
        ("WAITING", "Connecting", "Reconnecting", "waiting"),
        ("LIMITED", "Connecting", "Reconnecting", "limited"),
        ("RENEWING", "Connecting", "Reconnecting", "renewing"),
        ("DIALLING", "Connecting", "Reconnecting", "dialling"),
        ("OPENING", "Connecting", "Reconnecting", "opening"),
        ("CONNECTED", "Connected", "Connected", None),
        ("BLOCKED", "Connecting", "Reconnecting", "blocked"),
        ("CLOSING", "Closing", "Closing", None),
        ("CLOSED", "Closed", "Closed", None),
    ]


def test_an_order_and_a_message_find_their_answer_in_each_state() -> None:
    assert set(KeptState) == ORDERS_REDIAL | UNDER_WAY | {S.CLOSING, S.CLOSED}
    assert not ORDERS_REDIAL & UNDER_WAY
    assert {state for state in KeptState if phase(state)} | {S.CONNECTING} == MAY_QUEUE | {S.BLOCKED}


def test_nothing_leads_back_from_the_end() -> None:
    for state in KeptState:
        assert state is S.CLOSED or TRANSITIONS[state][E.ENDED] is S.CLOSED
    assert set(TRANSITIONS[S.CLOSING].values()) == {S.CLOSED}
    assert not TRANSITIONS[S.CLOSED]


@pytest.mark.parametrize(
    ("state", "event", "socket", "kinds"),
    [
        (S.OPENING, E.READY, 0, ["onOpen"]),
        (S.OPENING, E.READY, 1, ["onReconnect"]),
        (S.OPENING, E.RETRY, 1, []),
        (S.DIALLING, E.RETRY, 0, []),
        (S.CONNECTED, E.RETRY, 1, ["onDisconnect"]),
        (S.CONNECTED, E.REDIAL, 1, ["onDisconnect"]),
        (S.CONNECTED, E.WORKER_GONE, 1, ["onDisconnect"]),
        (S.WAITING, E.WORKER_GONE, 1, []),
        (S.CONNECTED, E.CLOSE_BEGUN, 1, []),
        (S.CONNECTED, E.ENDED, 1, ["onTerminate"]),
        (S.CLOSING, E.ENDED, 1, ["onTerminate"]),
        (S.WAITING, E.ENDED, 1, ["onTerminate"]),
        (S.CONNECTING, E.ENDED, 0, ["onTerminate"]),
    ],
)
def test_each_step_records_what_the_law_says(state: S, event: E, socket: int, kinds: list[str]) -> None:
    assert records(state, event, socket) == kinds


def test_what_waits_is_told_of_before_the_end_and_when_its_worker_is_gone() -> None:
    assert records(S.WAITING, E.ENDED, 1, unsent=True, error=True) == ["onUnsent", "onError", "onTerminate"]
    assert records(S.CONNECTED, E.WORKER_GONE, 1, unsent=True) == ["onDisconnect", "onUnsent"]
    assert records(S.CONNECTED, E.RETRY, 1, unsent=True) == ["onDisconnect"], "it waits on"


# The model (test 47).

LETTERS = {
    "onOpen": "O",
    "onMessage": "M",
    "onSilence": "S",
    "onUnsent": "U",
    "onDisconnect": "D",
    "onReconnect": "R",
    "onError": "E",
    "onTerminate": "T",
    "callbackError": "",  # may stand anywhere
}
LAW = re.compile(r"U*(O[MSU]*(DU*R[MSU]*)*D?)?U*E?T\Z")

ENDS = (
    Ended(close_code=1000),
    Ended(err_code=ErrCode.CONNECTION_LOST, close_code=1006),
    Ended(err_code=ErrCode.REFUSED),
    Ended(err_code=ErrCode.HANDSHAKE_STATUS, status=503),
    Ended(err_code=ErrCode.HANDSHAKE_STATUS, status=401),
    Ended(err_code=ErrCode.HANDSHAKE_STATUS, status=410),
    Ended(close_code=4401),
    Ended(close_code=1009),
    Ended(err_code=112, refused_step=True),
    Ended(err_code=ErrCode.POLICY_REFUSED),
)


class Driver:
    """A shell without sockets: it does what is due, records by the table, and checks what must hold meanwhile.

    Each stimulus may come at any time, as outside: it is for the driver to know whether it means anything now.
    """

    def __init__(self, choices: Iterator[int], *, recipe: bool) -> None:
        self.choices = choices
        self.recipe = recipe
        self.now = 0.0
        self.kinds: list[str] = []
        self.state = S.CONNECTING
        self.socket = 0
        self.queued = 0
        self.attempt = 0  # the number that guards against late words
        self.dials = 0
        self.live: int | None = None  # the attempt that has a socket
        first = "retry" if self.choose(2) else "fail"
        policy = resolve(ReconnectRequest(first=first, give_up_after=(0, 300)[self.choose(2)]))
        assert policy is not None
        self.keeper = Keeper(policy, self.now)
        if first == "retry":
            self.step(E.TICKET_TAKEN)
        else:
            self.attempt_begins()

    def choose(self, count: int) -> int:
        return next(self.choices) % count

    def step(self, event: KeptEvent, *, error: bool = False) -> None:
        found = records(self.state, event, self.socket, unsent=self.queued > 0, error=error)
        self.kinds += found
        if "onUnsent" in found:
            self.queued = 0
        self.state = step(self.state, event)
        if self.state is S.CONNECTED:
            self.socket += 1
        if event in (E.RETRY, E.REDIAL, E.WORKER_GONE, E.ENDED):
            self.live = None  # the socket is dropped, or aborted
            self.attempt += 1
        assert phase(self.state) is None or self.live is None or self.state is S.OPENING

    def attempt_begins(self) -> None:
        self.keeper.began(self.now)
        self.step(E.RENEW_BEGUN if self.recipe and self.choose(2) else E.DIAL_BEGUN)
        self.dials += self.state is S.DIALLING

    def word_of(self, attempt: int, end: Ended) -> None:
        """Attempt number `attempt`, or its socket, says that it has ended."""
        if attempt != self.attempt:
            return
        if self.state is S.CLOSING:
            self.step(E.ENDED)  # never again, whatever the code is
        elif self.state in (S.RENEWING, S.DIALLING, S.OPENING, S.CONNECTED):
            self.ended(end)

    def ended(self, end: Ended) -> None:
        answer = self.keeper.ended(end, self.now, self.choose(256) / 256, renewable=self.recipe)
        if isinstance(answer, Redial):
            assert answer.at >= self.now
            self.step(E.RETRY)
        else:
            self.step(E.ENDED, error=answer.err_code is not None)

    def stimulus(self) -> None:
        self.now += self.choose(256) / 8
        before = self.state
        match self.choose(20):
            case 0 | 1 | 2 | 3:  # whatever is due next
                self.advance()
            case 4:
                self.word_of(self.attempt, ENDS[self.choose(len(ENDS))])
            case 5 if self.state in (S.CONNECTED, S.CLOSING):
                self.kinds.append("onMessage")
            case 6 if self.state is S.CONNECTED:
                self.kinds.append("onSilence")
            case 7 if self.state in MAY_QUEUE:
                self.queued += 1
            case 8 if self.queued and self.state not in (S.CLOSED, S.BLOCKED):  # a ttl, or DELETE …/queue
                self.kinds.append("onUnsent")
                self.queued = 0
            case 9 if self.state not in (S.CLOSING, S.CLOSED):
                if self.state is S.CONNECTING or (not self.socket and self.keeper.policy.first == "fail"):
                    self.step(E.ENDED, error=True)  # as today
                else:
                    self.step(E.WORKER_GONE)
                    self.keeper = Keeper(self.keeper.policy, self.now, was_ready=self.socket > 0)
            case 9 if self.state is S.CLOSING:
                self.step(E.ENDED)
            case 10:  # an order for a new socket
                if self.state is S.CONNECTED:
                    self.keeper.ordered(self.now)
                    self.step(E.REDIAL)
                elif self.state is S.WAITING:
                    self.step(E.TICKET_TAKEN)
            case 11 if self.choose(4) == 0:  # terminate, or a kill, in any state
                if self.state is S.CONNECTED:
                    self.step(E.CLOSE_BEGUN)
                elif self.state not in (S.CLOSING, S.CLOSED):
                    self.step(E.ENDED, error=not self.socket)
            case 12 if self.now >= self.keeper.gives_up_at and self.state not in (S.CLOSING, S.CLOSED):
                self.step(E.ENDED, error=True)
            case 13:
                self.kinds.append("callbackError")
            case 14:  # a late one
                self.word_of(self.attempt - 1 - self.choose(3), ENDS[self.choose(len(ENDS))])
                assert self.state is before
        assert before is not S.CLOSED or self.state is S.CLOSED

    def advance(self) -> None:
        match self.state:
            case S.WAITING | S.BLOCKED:
                self.step(E.TICKET_TAKEN)
            case S.LIMITED | S.CONNECTING:
                self.attempt_begins()
            case S.RENEWING:
                self.step(E.DIAL_BEGUN)
                self.dials += 1
            case S.DIALLING:
                assert self.live is None, "never two sockets of one id"
                self.live = self.attempt
                self.step(E.HANDSHAKE_DONE)
                if not self.recipe:
                    self.ready()
            case S.OPENING:
                self.ready()
            case S.CLOSING:
                self.step(E.ENDED)

    def ready(self) -> None:
        self.keeper.ready(self.now)
        self.step(E.READY)
        self.queued = 0  # what waited is written

    def check_shown(self) -> None:
        shown = status(self.state, self.socket)
        last = next((kind for kind in reversed(self.kinds) if LETTERS[kind] in "ODRT" and LETTERS[kind]), None)
        if shown == "Reconnecting":
            assert last == "onDisconnect"
        if last == "onDisconnect":
            assert shown == "Reconnecting"
        assert (last == "onTerminate") is (shown == "Closed")
        if last is None:
            assert shown in ("Connecting",)
        assert self.socket == sum(kind in ("onOpen", "onReconnect") for kind in self.kinds)

    def finish(self) -> None:
        """End it, if nothing has, and read its events by the law."""
        if self.state is not S.CLOSED:
            self.step(E.ENDED)
        text = "".join(LETTERS[kind] for kind in self.kinds)
        assert LAW.match(text), text
        assert self.kinds.count("onTerminate") == 1


@pytest.mark.parametrize("recipe", [False, True], ids=["without a recipe", "with its phases"])
def test_random_walks_read_as_the_law_says(recipe: bool) -> None:  # 47
    steps = 0
    seen: set[KeptState] = set()

    @settings(max_examples=400)
    @given(st.integers(0, 2**32), st.binary(max_size=64))
    def walk(seed: int, chosen: bytes) -> None:
        nonlocal steps
        # What Hypothesis chose comes first, so that it can shrink a failure; the seed says how it goes on.
        rng = random.Random(seed)
        choices = itertools.chain(chosen, iter(lambda: rng.randrange(256), None))
        for _ in range(10):
            driver = Driver(choices, recipe=recipe)
            for _ in range(60):
                driver.stimulus()
                driver.check_shown()
                seen.add(driver.state)
                steps += 1
                if driver.state is S.CLOSED and driver.choose(4) == 0:
                    break
            dials = driver.dials
            driver.finish()
            driver.stimulus()
            assert driver.dials == dials, "no dial after the end"

    while steps < 100_000:
        walk()
    assert seen >= set(KeptState) - {S.CONNECTING} - (set() if recipe else {S.RENEWING, S.OPENING})
