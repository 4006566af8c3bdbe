"""What the log says, folded in its order: whose chains there are, which lives are over, what claims are worth, and the events of all.

Every node folds every message, so all hold the same. It decides nothing about the engine: `tail` brings messages, `node` looks at what is here.
What is folded is kept in `cluster.db` with the events, in one transaction.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from mooring.events import Kind, NodeLostEvent, NodeReturnedEvent, Unreplicated, service_body
from mooring.link.messages import AskCall, AskKill
from mooring_service.cluster import message as wire
from mooring_service.cluster.claims import Claims, Holder
from mooring_service.cluster.lives import Standing
from mooring_service.cluster.message import Message, Part, Unreadable, Up
from mooring_service.cluster.position import position_of
from mooring_service.journal.addition import Addition
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.folded import Folded, KeyChange, Pair

STOPPED = "stopped"
MAX_NODES = 16  # every node carries every event: more of them only make each slower

log = logging.getLogger("mooring.cluster")
_pack = msgspec.msgpack.Encoder().encode
_decode_ask = msgspec.msgpack.Decoder(AskCall | AskKill).decode


class NodeState(msgspec.Struct, array_like=True):
    """One node as its chain says: kept by place, new fields go last."""

    node: str
    life: str = ""
    head: int = 0  # sequence of the last message of the chain
    last: int = 0  # the last addition of this life that is in the log
    slot: int = 0
    run: bytes = b""
    over: str = ""  # "": it lives; else a `Standing`
    up: Up | None = None
    beat: wire.Beat = wire.Beat()
    ended_us: int = 0


class FoldedAsk(msgspec.Struct, frozen=True):
    """What code in a worker has asked for: who wrote it, its number there, and which node (in which life) does it."""

    worker: str
    ask: bytes
    number: int
    writer: str
    node: str
    life: str


class Folding(msgspec.Struct):
    """What one message adds to `cluster.db`. `is_piece`: of an addition that takes effect with a later one."""

    seq: int
    appends: list[Append]
    changes: dict[Pair, bytes | None]
    keys: list[KeyChange] = []
    asks: list[FoldedAsk] = []
    is_piece: bool = False


class Diverged(Exception):
    """The log is not the one that was read before: it went back, or the engine's replicas differ."""


class Fold:
    """What was read of the log.

    Attributes:
        applied: The last message that was folded.
        epoch: The log's name.
        nodes: By name.
        epochs: How often the log got a name, or another one, since this service reads it.
        strangers: Messages that were none of ours, or damaged.
        on_claim: Called with each claim: whose it is, and whether it was granted.
    """

    def __init__(self, folded: Folded) -> None:
        self.strangers = self.epochs = 0
        self.on_claim: Callable[[NodeState, Claim, bool], None] = lambda node, claim, granted: None
        self.on_message: Callable[[Message], None] = lambda message: None
        self._is_piece = False
        self._is_news = False  # the life that the last `lost` is about was not over before
        self._changes: dict[Pair, bytes | None] = {}
        self._keys: list[KeyChange] = []
        self._asks: list[FoldedAsk] = []
        self.recover(folded)

    def recover(self, folded: Folded) -> None:
        """Hold what `folded` says, and nothing else."""
        self.applied = folded.applied
        self.epoch = ""
        self.nodes: dict[str, NodeState] = {}
        self.claims = Claims()
        self._parts: dict[str, list[bytes]] = {}
        over: list[tuple[int, str, str, int]] = []
        for (kind, key), value in sorted(folded.values.items()):
            if kind == "epoch":
                self.epoch = value.decode()
            elif kind == "node":
                state = msgspec.msgpack.decode(value, type=NodeState)
                self.nodes[key] = state
            elif kind == "over":
                node, _, life = key.partition(" ")
                lost_us, _, at = value.partition(b" ")
                over.append((int(at or b"0"), node, life, int(lost_us or b"0")))
            elif kind == "slot":
                self.claims.slots[int(key)] = value.decode()
            elif kind == "part":
                self._parts.setdefault(key.partition(" ")[0], []).append(value)
            elif kind in ("worker", "name", "key"):
                held = {"worker": self.claims.workers, "name": self.claims.names, "key": self.claims.keys}[kind]
                held[key] = msgspec.msgpack.decode(value, type=Holder)
                if kind == "name" and held[key].connection:
                    self.claims.name_of(held[key].connection, key)
        for _, node, life, when_us in sorted(over):  # in the order in which they ended, as every node has them
            self.claims.recall_over(node, life, when_us)
        self.claims.keys = dict(sorted(self.claims.keys.items(), key=lambda item: item[1].time_ms))

    def take(self, seq: int, subject: str, data: bytes, first_kept: int) -> Folding:
        """Fold the message at `seq`; `first_kept` is the first that the log still holds.

        Raises:
            Diverged: If it does not follow what was read before.
            TooNew: If a later mooring has written it.
        """
        self._changes, self._keys, self._asks = {}, [], []
        self._is_piece = False
        appends: list[Append] = []
        self.applied = seq
        try:
            message = wire.decode(data)
            if subject.rpartition(".")[2] != message.node:
                raise Unreadable(f"it says that it is of {message.node[:40]!r}")
            appends = self._take(seq, message, first_kept)
        except Unreadable as exc:
            self.strangers += 1
            log.error("message %d of the log (%s) is left out: %s", seq, subject, exc)
        return Folding(seq, appends, self._changes, self._keys, self._asks, self._is_piece)

    def _take(self, seq: int, message: Message, first_kept: int) -> list[Append]:
        if message.node == wire.EPOCH_CHAIN:
            self._set_epoch(wire.extra(message, wire.EpochBegins).epoch)
            return []
        if not self.epoch:
            self._set_epoch(message.epoch)
        node = self.nodes.get(message.node)
        if node is None:
            node = self.nodes[message.node] = NodeState(message.node)
        elif message.prev != node.head and not max(message.prev, node.head) < first_kept:
            raise Diverged(
                f"message {seq} of {message.node} follows {message.prev}, and the last one of it that was read is {node.head}"
            )
        node.head = seq
        try:
            pieces = self._of_node(node, message)
        finally:
            self._changes["node", node.node] = _pack(node)  # its head, whatever else is wrong
        appends = self._add(seq, node, wire.additions(pieces))
        if (event := event_of(message)) is not None and (message.kind == wire.UP or self._is_news):
            appends = [msgspec.structs.replace(event, at=position_of(seq))]
        self.on_message(message)
        return appends

    def _of_node(self, node: NodeState, message: Message) -> list[bytes | msgspec.Raw]:
        """Take what a message says of its node; return the additions that take effect with it."""
        if message.kind == wire.LOST:
            self._lost(node, message)
            pieces: list[bytes | msgspec.Raw] = []
        else:
            if message.life != node.life:
                self._begin(node, message)
            pieces = self._pieces(node, message)
        node.last, node.run = message.last, message.run
        if message.kind == wire.BEAT and len(message.extra) > 1:
            node.beat = wire.extra(message, wire.Beat)
        if message.kind == wire.UP:
            node.up = wire.extra(message, Up)
            if self.claims.slot(node.node, node.up.slot):
                node.slot = node.up.slot
                self._changes["slot", str(node.slot)] = node.node.encode()
        return pieces

    def living(self, node: str, life: str) -> NodeState | None:
        """Return a node in a life of it; None if that is not known to live."""
        state = self.nodes.get(node)
        return state if state is not None and state.life == life and not state.over else None

    def unlike(self, node: str, dead_after_s: float) -> str | None:
        """Return why a node must not go on beside the others that live: they wait for another time, or are too many; None if it may."""
        others = [one.node for one in self.nodes.values() if one.node != node and not one.over]
        if len(others) >= MAX_NODES:
            return f"{len(others)} nodes of this cluster live, and {MAX_NODES} are the most: have several clusters"
        for other in self.nodes.values():
            if other.node != node and not other.over and other.up is not None and other.up.dead_after_s != dead_after_s:
                return f"cluster.dead_after is {dead_after_s:g} here, and {other.up.dead_after_s:g} at the node {other.node!r}: it must be equal"
        return None

    def _set_epoch(self, epoch: str) -> None:
        self.epochs += epoch != self.epoch
        self.epoch = epoch
        self._changes["epoch", ""] = epoch.encode()

    def _begin(self, node: NodeState, message: Message) -> None:
        if node.life and not node.over:
            self._end(node, node.life)
        node.life, node.over, node.last = message.life, "", message.last

    def _lost(self, node: NodeState, message: Message) -> None:
        lost = wire.extra(message, wire.Lost)
        self._drop_parts(node.node)
        self._is_news = not self.claims.is_over(node.node, lost.life)
        if self._is_news:
            self._end(node, lost.life, 0 if lost.reason == STOPPED else lost.time_us)
        if lost.life == node.life or not node.life:
            node.life = lost.life
            node.over = (Standing.LEFT if lost.reason == STOPPED else Standing.DEAD).value
            node.ended_us = lost.time_us

    def _end(self, node: NodeState, life: str, lost_us: int = 0) -> None:
        for forgotten in self.claims.over(node.node, life, lost_us):
            self._changes["over", f"{node.node} {forgotten}"] = None
        self._changes["over", f"{node.node} {life}"] = b"%d %d" % (lost_us, self.applied)

    def _pieces(self, node: NodeState, message: Message) -> list[bytes | msgspec.Raw]:
        """Return the additions that take effect with a message: those of a part with the last of them."""
        if message.kind != wire.PART:
            self._drop_parts(node.node)
            return list(message.additions)
        part = wire.extra(message, Part)
        if part.index == 0:
            self._drop_parts(node.node)
        parts = self._parts.setdefault(node.node, [])
        if part.index != len(parts):
            raise Unreadable(f"part {part.index} behind {len(parts)} others")
        parts.append(wire.piece_of(message))
        if part.index < part.count - 1:
            self._changes["part", f"{node.node} {part.index:06}"] = parts[-1]
            self._is_piece = True
            return []
        whole = b"".join(parts)
        self._drop_parts(node.node)
        return [whole]

    def _drop_parts(self, node: str) -> None:
        for index in range(len(self._parts.pop(node, []))):
            self._changes["part", f"{node} {index:06}"] = None

    def _add(self, seq: int, node: NodeState, additions: list[Addition]) -> list[Append]:
        appends: list[Append] = []
        at = position_of(seq)
        for addition in additions:
            for claim in addition.claims:
                granted = self.claims.claim(claim, node.node, node.life)
                self._keep(claim)
                if claim.what == "key" and granted:
                    self._note_key(claim)
                self.on_claim(node, claim, granted)
            for key, answer in addition.answers:
                held = self.claims.keys.get(key)
                if held is not None and (held.node, held.life) == (node.node, node.life):
                    self._keys.append(KeyChange(key, answer=answer))
            self._ask(addition, node)
            for update in addition.updates:
                if update.ended and (name := self.claims.ended(update.id)) is not None:
                    self._changes["name", name] = None
            appends.append(addition.append(at=0 if appends else at))
        return appends

    def _keep(self, claim: Claim) -> None:
        held = {"worker": self.claims.workers, "name": self.claims.names, "key": self.claims.keys}.get(claim.what, {})
        holder = held.get(claim.key)
        self._changes[claim.what, claim.key] = None if holder is None else _pack(holder)

    def _note_key(self, claim: Claim) -> None:
        if not isinstance(claim.value, tuple):
            self._keys.append(KeyChange(claim.key))
            return
        fingerprint, time_ms = claim.value
        self._keys.append(KeyChange(claim.key, fingerprint, time_ms))
        for key in self.claims.forget_keys(time_ms):
            self._changes["key", key] = None
            self._keys.append(KeyChange(key))

    def _ask(self, addition: Addition, node: NodeState) -> None:
        for number, ask in enumerate(addition.asks, addition.first_ask):
            try:
                does = self._who_does(_decode_ask(ask).worker, node)
            except msgspec.MsgspecError as exc:
                log.error("what a worker of node %s has asked for cannot be read: %s", node.node, exc)
                continue
            self._asks.append(FoldedAsk(addition.worker, ask, number, node.node, *does))

    def _who_does(self, worker: str, writer: NodeState) -> tuple[str, str]:
        """Return which node, in which life, does what is asked of a worker here in the log: who holds it, else who asks."""
        held = self.claims.workers.get(worker)
        if held is None or self.claims.is_over(held.node, held.life):
            return writer.node, writer.life
        return held.node, held.life


def event_of(message: Message) -> Append | None:
    """Return the event that a message itself is: that a node is lost, or has returned; None if it is none.

    It is made of what the message bears, so it is told once, everywhere the same, whoever dies.
    """
    event: NodeLostEvent | NodeReturnedEvent
    if message.kind == wire.LOST:
        lost = wire.extra(message, wire.Lost)
        if lost.reason == STOPPED:
            return None
        kind, time_us = Kind.nodeLost, lost.time_us
        event = NodeLostEvent(
            node=message.node, life=lost.life, by=lost.by, silent_ms=lost.silent_ms, workers=lost.workers, connections=lost.connections
        )  # fmt: skip
    elif message.kind == wire.UP:
        up = wire.extra(message, Up)
        back = up.returned
        if back is None:
            return None
        kind, time_us = Kind.nodeReturned, up.time_us
        missing = Unreplicated(events=back.events, from_=back.from_, to=back.to) if back.from_ and back.to else None
        event = NodeReturnedEvent(node=message.node, life=back.life, unreplicated=missing)
    else:
        return None
    return Append(connections=bytes(8), kinds=bytes((kind,)), bodies=service_body(kind, time_us, event))
