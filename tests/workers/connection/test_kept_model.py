"""Random walks of kept connections in a world without an outside: what is recorded reads as the law says, whatever happens when."""

from __future__ import annotations

import itertools
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring.connection.asking import Waiter
from mooring.connection.kept import KeptConnection
from mooring.connection.kept_state import KeptState
from mooring.errors import ErrCode
from mooring.kept_options import (
    AnswerRequest,
    ForgetRequest,
    KeepAliveRequest,
    RecipeRequest,
    ReconnectRequest,
    ReconnectWhenRequest,
    RememberRequest,
    RenewRequest,
    StepRequest,
)
from mooring.link.messages_sent import Send, SendFailed, SendQueued, Sent
from mooring.wire.socket import SocketState
from tests.workers.connection.standing_loop import Dial, Renewal, Timeout, Transport
from tests.workers.connection.test_kept_state import LAW, LETTERS
from tests.workers.connection.world import World

CODES = (1000, 1001, None, 1008, 1009, 1011, 1013, 4401, 4999)
FAILURES: tuple[tuple[ErrCode, int | None], ...] = (
    (ErrCode.REFUSED, None),
    (ErrCode.CONNECT_TIMEOUT, None),
    (ErrCode.NAME_NOT_RESOLVED, None),
    (ErrCode.HANDSHAKE_STATUS, 503),
    (ErrCode.HANDSHAKE_STATUS, 429),
    (ErrCode.HANDSHAKE_STATUS, 401),
    (ErrCode.POLICY_REFUSED, None),
)


CONVERSES: dict[str, Any] = {
    "recipe": RecipeRequest(
        opening=[
            StepRequest(send="hi"),
            StepRequest(send="login ${token} ${nextId}", expect="ok", fail="no", timeout=5),
            StepRequest(send="go on, ${place}", when="place"),
        ],
        remember={"place": RememberRequest(pointer="/place")},
        forget=[ForgetRequest(name="place", when="no")],
        renew=RenewRequest(function="give", timeout=10, reuse_for=0),
        answers=[AnswerRequest(when="beat", send="pong", hide=True), AnswerRequest(when="x", send="y", after="stored")],
        reconnect_when=[ReconnectWhenRequest(when="move", delay="none")],
        stop_when=["stop"],
    ),
    "keep_alive": KeepAliveRequest(send="k", expect="kk", interval=5, timeout=3),
    "data_timeout": 20.0,
}
"""Half of the walks fetch a token, log in, remember, answer, and are watched."""
CANARY = "canary"  # what is in all that is fetched or remembered, and shown nowhere
GIVEN: tuple[Any, ...] = ({"token": f"t-{CANARY}"},) * 5 + ({"token": None}, {}, ["no", "object"], {"no name": "x"})
WORDS = (
    "x",
    "ok",
    "ok",
    "ok",
    "ok",
    "no",
    "beat",
    "kk",
    "kk",
    "move",
    "x",
    "x",
    "x",
    "x",
    "x",
    "stop",
    f'{{"place":"{CANARY}"}}',
)

SENDS, ASKS, DROPS = 2_000_000, 3_000_000, 4_000_000  # from here on requests of a kind are numbered


class Walk:
    """One connection, to which one thing after the other happens; what must hold is checked after each."""

    def __init__(self, choices: Iterator[int]) -> None:
        self.choices = choices
        self.world = World()
        policy = ReconnectRequest(
            first=("fail", "retry")[self.choose(2)],
            give_up_after=(0.0, 120.0)[self.choose(2)],
            min_delay=0.5,
            stop_codes=[1009] if self.choose(2) else [],
            refused_codes=[4401] if self.choose(4) == 0 else [],
        )
        self.request, self.ends = 0, 1_000_000
        self.connection: KeptConnection = self.world.open(
            request=1, reconnect=policy, close_timeout=3, send_timeout=2, requests="jsonrpc",
            when_down=("fail", "queue")[self.choose(2)],
            **(CONVERSES if self.choose(2) else {}),
        )  # fmt: skip
        self.sends, self.asks, self.drops = SENDS, ASKS, DROPS

    def choose(self, count: int) -> int:
        return next(self.choices) % count

    @property
    def pending(self) -> list[Dial]:
        return [dial for dial in self.world.dialler.dials if not dial.ended and not dial.cancelled]

    @property
    def renewals(self) -> list[Renewal]:
        return [renewal for renewal in self.world.renewals if not renewal.ended and not renewal.cancelled]

    @property
    def transports(self) -> list[Transport]:
        return [dial.transport for dial in self.world.dialler.dials if dial.transport is not None]

    def happen(self) -> None:
        before = self.connection.kept_state
        transport = self.transports[-1] if self.transports else None
        if self.choose(3) == 0 and self.go_on(transport):
            return
        match self.choose(27):
            case 0 | 1:
                self.world.loop.advance((0.0, 0.01, 0.3, 2.0, 15.0, 90.0)[self.choose(6)])
            case 2 | 3 | 4 | 5 if self.pending:
                self.pending[0].accept()
            case 6 if self.pending:
                err_code, status = FAILURES[self.choose(len(FAILURES))]
                self.pending[0].fail(err_code, status)
            case 7 | 8 if transport is not None and transport.protocol is not None:
                transport.say(WORDS[self.choose(len(WORDS))])
            case 9 if transport is not None and transport.protocol is not None:
                transport.close_with(CODES[self.choose(len(CODES))])
            case 10 if transport is not None and transport.protocol is not None:
                transport.lose(ConnectionResetError() if self.choose(2) else None)
            case 11 if transport is not None and transport.protocol is not None and self.choose(3) == 0:
                transport.protocol.data_received((b"\xff\xff", b"\x81\x02\xff\xff")[self.choose(2)])
            case 12:
                self.request += 10
                delay_s = (0.0, 5.0)[self.choose(2)]
                self.world.order(self.connection, self.request, delay_s=delay_s, wait=bool(self.choose(2)))
            case 13 if self.choose(6) == 0:
                self.ends += 1
                self.connection.terminate(None, None, self.ends)
            case 14 if self.choose(12) == 0:
                self.connection.stop(1001, "the worker is being killed")
            case 15 if len(self.transports) > 1:  # a late word of a dead socket
                dead = self.transports[self.choose(len(self.transports) - 1)]
                dead.protocol.data_received(b"\x81\x01x")
                dead.protocol.connection_lost(None)
                assert self.connection.kept_state is before
            case 16 | 17 | 18:
                self.sends += 1
                said = [None, "queue", "fail"][self.choose(3)]
                ttl_s = [None, 0.1, 60.0][self.choose(3)]
                answer = self.connection.send(
                    Send(self.sends, 1, False, [b"m%d" % self.sends], f"k{self.sends}", said, ttl_s)  # type: ignore[arg-type]
                )
                if answer is not None:
                    self.world.answers.append(answer)
            case 19 if self.choose(3) == 0:
                self.drops += 1
                self.connection.drop_queue(self.drops)
            case 20 if transport is not None and transport.protocol is not None:
                if transport.protocol.outbound.paused:
                    transport.protocol.resume_writing()
                else:
                    transport.protocol.pause_writing()
            case 21 if transport is not None:
                transport.unflushed = self.choose(2)
            case 22:
                self.asks += 1
                waiter = Waiter(self.asks, self.world.answers.append)
                self.connection.ask(waiter, b"{}", (0.1, 30.0)[self.choose(2)])
            case 23 if transport is not None and transport.protocol is not None:
                transport.say(f'{{"id":{1 + self.choose(8)}}}')
            case 24 | 25 if self.renewals:
                self.renewals[0].give(GIVEN[self.choose(len(GIVEN))])
            case 26 if self.renewals and self.choose(2):
                self.renewals[0].fail()
        if self.choose(3):
            self.world.loop.advance()

    def go_on(self, transport: Transport | None) -> bool:
        """Have what brings it nearer to a ready socket happen, or there is nothing of the kind."""
        if self.renewals:
            self.renewals[0].give(GIVEN[0])
        elif self.pending:
            self.pending[0].accept()
        elif self.connection.kept_state is KeptState.WAITING:
            self.world.loop.advance(2.0)
        elif self.connection.kept_state is KeptState.OPENING and transport is not None:
            transport.say("ok")
        else:
            return False
        self.world.loop.advance()
        return True

    def check(self) -> None:
        state = self.connection.kept_state
        alive = [one for one in self.transports if one.protocol is not None and one.protocol.state is SocketState.OPEN]
        assert len(alive) <= 1, "never two sockets of one id"
        assert not (alive and self.pending), "and none beside a dial"
        assert len(self.renewals) + len(self.pending) <= 1, "one attempt at a time"
        assert not self.renewals or state is KeptState.RENEWING
        if state is KeptState.CLOSED:
            assert not alive and not self.pending and not self.renewals

    def finish(self) -> None:
        """End it, and read its events by the law."""
        if self.connection.kept_state is not KeptState.CLOSED:
            self.connection.terminate(None, None, 2)
        dials, renewals = len(self.world.dialler.dials), len(self.world.renewals)
        self.world.loop.advance(300)
        kinds = self.world.kinds()
        text = "".join(LETTERS[kind] for kind in kinds)
        assert LAW.match(text), text
        assert re.fullmatch("U*(O|E?T)?([^OR]|R)*", text), "one onOpen, and nothing before it but the end"
        assert self.world.dense() and kinds.count("onTerminate") == 1
        assert len(self.world.dialler.dials) == dials, "no dial after the end"
        assert len(self.world.renewals) == renewals, "and nothing is fetched for one"
        shown = [event for event in self.world.events if event[1] != "onMessage"]
        assert CANARY not in repr([shown, self.world.updates, self.world.created, self.world.answers])  # 43
        assert self.world.loop.timers == 0 and self.world.redials.waiting == 0 and self.world.forgotten == [1]
        answered = [getattr(answer, "request", 0) for answer in self.world.answers]
        assert len(answered) == len(set(answered)), "each request is answered once"
        asked = {1, *range(10, self.request + 1, 10), *range(1_000_001, self.ends + 1)}
        asked |= {*range(SENDS + 1, self.sends + 1), *range(ASKS + 1, self.asks + 1), *range(DROPS + 1, self.drops + 1)}
        assert asked <= set(answered), "and none is left waiting"
        self._check_sends()

    def _check_sends(self) -> None:
        """A message is written once at most: never where it was refused, always where it was said so; what has waited comes back, or not."""
        written = Counter(payload for one in self.transports for _, payload in one.sent if payload.startswith(b"m"))
        unsent = Counter(
            message["data"].encode()
            for _, kind, event in self.world.events
            if kind == "onUnsent"
            for message in event["messages"]
        )
        assert not written or max(written.values()) == 1, "never twice"
        for answer in self.world.answers:
            payload = b"m%d" % getattr(answer, "request", 0)
            match answer:
                case Sent():
                    assert written[payload] == 1 and not unsent[payload]
                case SendQueued():
                    assert written[payload] + unsent[payload] == 1, "it went out, or came back"
                case SendFailed(why="uncertain"):
                    assert written[payload] == 1 and not unsent[payload]
                case SendFailed():
                    assert not written[payload] and not unsent[payload]


def test_random_walks_of_the_real_connection_read_as_the_law_says(monkeypatch: pytest.MonkeyPatch) -> None:  # 47
    steps = 0
    seen: set[KeptState] = set()
    logged_in = 0

    monkeypatch.setattr("mooring.connection.attempt.within", Timeout)

    @settings(max_examples=150)
    @given(st.integers(0, 2**32), st.binary(max_size=64))
    def walk(seed: int, chosen: bytes) -> None:
        nonlocal steps, logged_in
        rng = random.Random(seed)
        random.seed(seed)  # of the jitter
        choices = itertools.chain(chosen, iter(lambda: rng.randrange(256), None))
        for _ in range(8):
            one = Walk(choices)
            for _ in range(100):
                one.happen()
                one.check()
                seen.add(one.connection.kept_state)
                steps += 1
                if one.connection.kept_state is KeptState.CLOSED and one.choose(3) == 0:
                    break
            one.finish()
            logged_in += one.connection.options.recipe is not None and one.connection.number > 1

    while steps < 100_000:
        walk()
    print(f"{steps} steps, {logged_in} logged in again")
    assert logged_in > 50, "by a recipe, with a fresh token"
    assert seen >= set(KeptState) - {KeptState.CONNECTING, KeptState.BLOCKED}
