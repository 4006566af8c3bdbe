"""A model of nodes and one log: whatever the engine loses, delays or reorders, the law of the log holds (test 30 of the design).

The nodes are the real replicator, judge and mark; the engine is a list. Time is one number, so a lease can be compared with a verdict.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from mooring_service.cluster.lives import Judge, Mark, Standing, Timers, fenced
from mooring_service.cluster.message import ADD, BEAT, LOST, PART, UP, VERSION, Message, Part, extra
from mooring_service.cluster.replicator import Head, Identity, Replicator, Start, State, start

TIMERS = Timers(dead_after_s=15.0, fit_s=6.0, fence_s=10.0)
NAMES = "abc"
SMALL, LARGE = b"x" * 100, b"y" * (512 * 1024 + 1)

numbers = itertools.count(1)


def nonce() -> bytes:
    return next(numbers).to_bytes(4, "big")


class Node:
    """One node: its journal is a list of bodies, its state directory what is kept over a restart."""

    def __init__(self, name: str, now: float) -> None:
        self.name = name
        self.bodies: list[bytes] = []
        self.identity = Identity(name, f"{name}0", b"", frozenset())
        self.published = False
        self.begun = False
        self.restart(now)

    def restart(self, now: float) -> None:
        run = nonce()
        old = self.identity
        self.identity = Identity(self.name, old.life, run, old.runs | {run}, old.born)
        self.chain: Replicator | None = None
        self.sent: Message | None = None  # on its way
        self.applied = 0
        self.mark = Mark(now)
        self.judge = Judge(self.name, TIMERS, now)
        self.heads: dict[str, int] = defaultdict(int)

    def new_life(self) -> None:
        old = self.identity
        self.identity = Identity(self.name, f"{old.life}+", old.run, frozenset({old.run}), len(self.bodies))


class Log(RuleBasedStateMachine):
    """Steps of nodes, of the engine, and of time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.log: list[Message] = []
        self.at: list[float] = []
        self.late: list[tuple[Node, Message]] = []
        self.nodes = {name: Node(name, self.now) for name in NAMES}

    def last(self, name: str) -> tuple[int, Message] | None:
        for seq in range(len(self.log), 0, -1):
            if self.log[seq - 1].node == name:
                return seq, self.log[seq - 1]
        return None

    def store(self, message: Message) -> int | None:
        found = self.last(message.node)
        if (found[0] if found else 0) != message.prev:
            return None
        self.log.append(message)
        self.at.append(self.now)
        return len(self.log)

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0, 3.5]))
    def time_goes_on(self, seconds: float) -> None:
        self.now += seconds
        for node in self.nodes.values():
            self._look(node)

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 3), large=st.booleans())
    def commits(self, name: str, count: int, large: bool) -> None:
        self.nodes[name].bodies += [LARGE if large and not one else SMALL for one in range(count)]

    @rule(
        name=st.sampled_from(NAMES), fate=st.sampled_from(["stored", "stored", "stored", "answer lost", "lost", "late"])
    )
    def publishes(self, name: str, fate: str) -> None:
        node = self.nodes[name]
        chain = node.chain
        if chain is None:
            self._begin(node)
            return
        if chain.state is State.IDLE:
            waiting = node.bodies[chain.replicated :]
            if chain.in_parts:
                message = chain.part(self.now)
            else:
                message = chain.add(waiting, self.now) if waiting else chain.message(BEAT, self.now)
        elif chain.state is State.PROBING:
            message = chain.probe(self.now)
        else:
            return
        if fate == "late":
            self.late.append((node, message))
        seq = self.store(message) if fate in ("stored", "answer lost") else None
        if seq is not None and fate == "stored":
            chain.acked(seq, node.applied)
            node.published = True
        else:
            chain.unsure()

    def _begin(self, node: Node) -> None:
        found = self.last(node.name)
        head = Head(*found) if found else None
        how = start(node.identity, len(node.bodies), node.published, head)
        if how is Start.NEW_LIFE:
            node.new_life()
        elif how is Start.OTHER:  # a message of the run before came late: that life is not heard any more
            assert head is not None
            if self.now - self.at[head.seq - 1] > TIMERS.dead_after_s:
                lost = Message(
                    VERSION, LOST, node.name, head.message.life, nonce() * 2, head.seq, "e", 0, head.message.last
                )
                self.store(lost)
            return
        assert how is not Start.BEHIND
        prev = head.seq if head else 0
        same = how is Start.CONTINUE and head is not None and head.message.life == node.identity.life
        replicated = head.message.last if same and head is not None else node.identity.born
        node.chain = Replicator(node.identity, "e", prev, replicated, self.now, nonce)
        seq = self.store(node.chain.message(UP, self.now))
        if seq is None:
            node.chain.unsure()
        else:
            node.chain.acked(seq, 0)
            node.published = True

    @rule(index=st.integers(0, 20))
    def a_late_message_arrives(self, index: int) -> None:
        if self.late:
            _, message = self.late.pop(index % len(self.late))
            self.store(message)

    @rule(name=st.sampled_from(NAMES), stale=st.integers(0, 3))
    def asks_for_the_last(self, name: str, stale: int) -> None:
        node = self.nodes[name]
        chain = node.chain
        if chain is None or chain.state is not State.DOUBT:
            return
        mine = [seq for seq, message in enumerate(self.log, 1) if message.node == name]
        mine = mine[: len(mine) - stale] if stale else mine  # told by a leader that is none any more
        chain.found(Head(mine[-1], self.log[mine[-1] - 1]) if mine else None, 1)
        assert chain.state is not State.STRANGER
        if chain.state is State.IDLE:
            node.published = node.published or bool(mine)

    @rule(name=st.sampled_from(NAMES))
    def rises(self, name: str) -> None:
        node = self.nodes[name]
        if node.chain is not None and node.chain.state is State.DEAD:
            node.new_life()
            found = self.last(name)
            assert found is not None
            node.chain.risen(node.identity, found[0])
            seq = self.store(node.chain.message(UP, self.now))
            if seq is None:
                node.chain.unsure()
            else:
                node.chain.acked(seq, 0)

    @rule(name=st.sampled_from(NAMES))
    def is_started_again(self, name: str) -> None:
        self.nodes[name].restart(self.now)

    @rule(name=st.sampled_from(NAMES), count=st.integers(1, 30))
    def reads(self, name: str, count: int) -> None:
        node = self.nodes[name]
        for message in self.log[node.applied : node.applied + count]:
            node.applied += 1
            node.heads[message.node] = node.applied
            if message.kind == LOST:
                node.judge.ended(message.node, message.life, Standing.DEAD, self.now)
            else:
                node.judge.heard(message.node, message.life, self.now)

    @rule(name=st.sampled_from(NAMES))
    def judges(self, name: str) -> None:
        node = self.nodes[name]
        if node.chain is None:
            return
        self._look(node)
        for peer in node.judge.verdicts(self.now):
            verdict = Message(
                VERSION, LOST, peer.node, peer.life, nonce() * 2, node.heads[peer.node], "e", 0, self._last_of(peer.node, peer.life)
            )  # fmt: skip
            if self.store(verdict) is not None:
                dead = self.nodes[peer.node]
                # The law of the lease: who is declared dead has known for a while that it might be.
                if dead.chain is not None and dead.identity.life == peer.life:
                    assert fenced(self.now, dead.chain.acked_at, TIMERS), "declared dead while it was sure to live"

    def _look(self, node: Node) -> None:
        if node.chain is not None:
            node.mark.look(self.now, node.chain.acked_seq, node.applied)
            node.judge.look(self.now, node.chain.acked_at, node.mark.fresh_at)

    def _last_of(self, name: str, life: str) -> int:
        return max((message.last for message in self.log if (message.node, message.life) == (name, life)), default=0)

    @invariant()
    def nobody_takes_a_stale_answer_for_a_log_that_went_back(self) -> None:
        assert all(node.chain is None or node.chain.state is not State.BACK for node in self.nodes.values())

    @invariant()
    def the_law_of_the_log_holds(self) -> None:
        heads: dict[str, int] = defaultdict(int)
        done: dict[tuple[str, str], int] = {}
        parts: dict[str, int] = {}
        over = set()
        for seq, message in enumerate(self.log, 1):
            life = (message.node, message.life)
            assert message.prev == heads[message.node]
            heads[message.node] = seq
            assert life not in over or message.kind == LOST, "a life goes on after it was lost"
            if message.kind == LOST:
                over.add(life)
            if message.kind == PART:
                part = extra(message, Part)
                assert part.index in (0, parts.get(message.node, 0))
                parts[message.node] = part.index + 1
                held = 1 if part.index == part.count - 1 else 0
            else:
                parts.pop(message.node, None)
                held = len(message.additions)
            if held:
                assert message.first == done.get(life, message.first - 1) + 1, "an addition is missing, or there twice"
                assert message.last == message.first + held - 1
                done[life] = message.last


def run(examples: int, steps: int) -> None:
    run_state_machine_as_test(Log, settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None))


def test_the_law_of_the_log_holds_whatever_is_lost_delayed_or_reordered() -> None:
    run(40, 50)


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_the_law_of_the_log_holds_over_a_hundred_thousand_steps() -> None:
    run(1_250, 80)


def test_what_is_published_is_a_message_of_its_kind() -> None:
    chain = Replicator(Identity("a", "a0", b"rrrr", frozenset({b"rrrr"})), "e", 0, 0, 0.0, nonce)
    small = chain.add([SMALL, SMALL], 1.0)
    assert (small.kind, small.first, small.last) == (ADD, 1, 2)
    chain.acked(1, 0)
    for index in range(2):
        assert chain.in_parts is (index > 0)
        part = chain.part(2.0) if chain.in_parts else chain.add([LARGE, SMALL], 2.0)
        assert (part.kind, part.first, part.last, extra(part, Part)) == (PART, 3, 2 + index, Part(index, 2))
        chain.acked(2 + index, 0)
    assert chain.replicated == 3 and not chain.in_parts
