"""What a claim is worth at its place in the log: every node folds all of them, so all agree. Pure.

A claim is granted when what it names is free there: never claimed, given up, or held by a life that is over. There is no other store of it.
"""

from __future__ import annotations

import itertools

import msgspec

from mooring_service.cluster.position import MAX_SLOT
from mooring_service.journal.batch import Claim

KEY_AGE_MS = 24 * 3_600_000
TOLD = "-"  # of a worker: its heir has told what became of its connections; no node has that name
CLEARED = (
    "+"  # of a worker: somebody has started it again, whatever its nodes have died of; no node has that name either
)
KEPT_TAKEOVERS = 3
KEPT_LIVES = 32  # of each node, those that have ended last; of earlier ones those that hold something


class Holder(msgspec.Struct):
    """Who has something, in which life; `connection`: of a name, 0 before it is made. `time_ms`: of a key, by its claimer's clock.

    Of a worker: `inherited` until its heir has told what became of the connections that it had; `lost_us`: when the last nodes that had
    it were found dead; `found_dead`: whether the last one was, or has left in order.
    """

    node: str
    life: str
    connection: int = 0
    fingerprint: bytes = b""
    time_ms: int = 0
    inherited: bool = False
    lost_us: list[int] = []
    found_dead: bool = False


class Claims:
    """What is held by whom, folded from the log."""

    def __init__(self) -> None:
        self.workers: dict[str, Holder] = {}
        self.names: dict[str, Holder] = {}
        self.keys: dict[str, Holder] = {}
        self.slots: dict[int, str] = {}
        self._over: dict[tuple[str, str], int] = {}
        self._ended: dict[int, str] = {}  # connection → the name that its end frees

    def over(self, node: str, life: str, lost_us: int = 0) -> list[str]:
        """This life has ended: what it held can be had by others. `lost_us`: when it was found dead; 0: it has ended otherwise.

        Returns:
            Lives of the node that are forgotten by that: they ended long ago and hold nothing, so nobody asks for them. (Only a state
            directory that is put back from as long ago can have one told as lost again, and then it is news.)
        """
        self.recall_over(node, life, lost_us)
        ended = [one for one in self._over if one[0] == node]
        if len(ended) < 2 * KEPT_LIVES:
            return []
        holders = itertools.chain(self.workers.values(), self.names.values(), self.keys.values())
        hold = {(held.node, held.life) for held in holders}
        gone = [one for one in ended[:-KEPT_LIVES] if one not in hold]
        for one in gone:
            del self._over[one]
        return [life for _, life in gone]

    def recall_over(self, node: str, life: str, lost_us: int) -> None:
        """This life has ended, behind those that were named before."""
        self._over[node, life] = lost_us

    def is_over(self, node: str, life: str) -> bool:
        """Say whether a life has ended."""
        return (node, life) in self._over

    def name_of(self, connection: int, name: str) -> None:
        """A connection has a name, until it ends."""
        self._ended[connection] = name

    def ended(self, connection: int) -> str | None:
        """A connection has ended: return the name that is free by that."""
        name = self._ended.pop(connection, None)
        if name is None or name not in self.names or self.names[name].connection != connection:
            return None
        del self.names[name]
        return name

    def slot(self, node: str, wanted: int) -> bool:
        """Take a node's wish for a slot; say whether it has it: nobody had it, or one of the same name."""
        if not 1 <= wanted <= MAX_SLOT or self.slots.get(wanted, node) != node:
            return False
        self.slots[wanted] = node
        return True

    @property
    def next_slot(self) -> int:
        """The slot that a node without one asks for."""
        return max(self.slots, default=0) + 1

    def claim(self, claim: Claim, node: str, life: str) -> bool:
        """Take one claim of a life; say whether it is granted. One of a kind that is not known is not."""
        if claim.what == "worker":
            return self._worker(claim, node, life)
        if claim.what == "name" and isinstance(claim.value, int):
            return self._name(claim.key, claim.value, node, life)
        if claim.what == "key" and claim.value is None:
            held = self.keys.get(claim.key)
            mine = held is not None and (held.node, held.life) == (node, life)
            if mine:
                del self.keys[claim.key]
            return mine
        if claim.what == "key" and isinstance(claim.value, tuple):
            return self._key(claim.key, *claim.value, node, life)
        return False

    def _worker(self, claim: Claim, node: str, life: str) -> bool:
        held = self.workers.get(claim.key)
        mine = held is not None and (held.node, held.life) == (node, life)
        if claim.value is None:
            if mine:
                del self.workers[claim.key]
            return mine
        if claim.value == TOLD:
            if held is not None and mine:
                held.inherited = False
            return mine
        if claim.value == CLEARED:
            if held is not None and mine:
                held.lost_us = []
            return mine
        if held is None:
            self.workers[claim.key] = Holder(node, life)
        elif not mine:
            lost_us = self._over.get((held.node, held.life))
            if lost_us is None:
                return False
            lost = [*held.lost_us, lost_us][-KEPT_TAKEOVERS:] if lost_us else held.lost_us
            self.workers[claim.key] = Holder(node, life, inherited=True, lost_us=lost, found_dead=lost_us > 0)
        return True

    def _name(self, name: str, connection: int, node: str, life: str) -> bool:
        held = self.names.get(name)
        mine = held is not None and (held.node, held.life) == (node, life) and not held.connection
        unmade = held is not None and not held.connection and self.is_over(held.node, held.life)
        if held is not None and not mine and not unmade:
            return False
        self.names[name] = Holder(node, life, connection)
        if connection:
            self.name_of(connection, name)
        return True

    def _key(self, key: str, fingerprint: bytes, time_ms: int, node: str, life: str) -> bool:
        held = self.keys.get(key)
        if held is not None and time_ms - held.time_ms < KEY_AGE_MS and not self.is_over(held.node, held.life):
            return False
        self.keys.pop(key, None)  # it goes behind the others: the oldest stand first
        self.keys[key] = Holder(node, life, fingerprint=fingerprint, time_ms=time_ms)
        return True

    def forget_keys(self, time_ms: int) -> list[str]:
        """Drop keys that have been free for their age at `time_ms`; return them."""
        gone = []
        while (key := next(iter(self.keys), None)) is not None and time_ms - self.keys[key].time_ms >= KEY_AGE_MS:
            del self.keys[key]
            gone.append(key)
        return gone
