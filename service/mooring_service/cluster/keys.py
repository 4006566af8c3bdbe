"""Idempotency-Keys in a cluster: claimed in the log, so that of many nodes one does the request, and what it answered survives that node.

Owns what a claim means to who asks. What it is worth is `claims`' affair; the answers lie in `cluster.db`, beside the events.
"""

from __future__ import annotations

import asyncio
import time

from mooring_service.cluster.claims import KEY_AGE_MS
from mooring_service.cluster.fold import Fold
from mooring_service.cluster.placement import Placement
from mooring_service.cluster_errors import Elsewhere, EngineDown
from mooring_service.journal.batch import Append, Claim
from mooring_service.journal.journal import StoredAnswer
from mooring_service.journal.sparse import SparseJournal
from mooring_service.journal.sqlite import SqliteJournal


class Keys:
    """The keys, as this node sees them.

    Args:
        journal: Of this service; `of_all` is that of the log.
    """

    def __init__(
        self,
        placement: Placement,
        journal: SqliteJournal,
        of_all: SparseJournal,
        fold: Fold,
        node: str,
    ) -> None:
        self._placement, self._journal, self._of_all, self._fold = placement, journal, of_all, fold
        self._node = node

    async def claim(self, key: str, fingerprint: bytes, *, anywhere: bool) -> StoredAnswer | None:
        """Claim a key for this node: None when it is ours, else what it stands for in the log.

        Args:
            anywhere: Nothing but the key says which node does the request: its claim is waited for.

        Raises:
            Elsewhere: If another node does the request.
            EngineDown: If that has to be known, and cannot be asked.
        """
        now_ms = time.time_ns() // 1_000_000
        held = self._placement.key(key)
        if held is not None and now_ms - held.time_ms < KEY_AGE_MS:
            if held.fingerprint != fingerprint:
                own = await self._journal.find_key(key)
                age_ms = 0 if own is None else self._journal.now_ms() - own.created_at_ms
                if own is not None and own.fingerprint == fingerprint and age_ms < KEY_AGE_MS:
                    return None  # both were begun in one moment, before either was read: what was done here is answered here
                return StoredAnswer(key, held.fingerprint, held.time_ms, None)
            if self._placement.is_mine(held):
                return None
            if anywhere and not self._fold.claims.is_over(held.node, held.life):
                raise Elsewhere("the Idempotency-Key", held.node)
            found = await self._of_all.find_key(key)
            if found is not None and found.answer is not None:
                return found
        claim = Claim("key", key, (fingerprint, now_ms))
        if not anywhere:
            self._journal.append(Append(claims=[claim]))
            return None
        if not await self._placement.claim(claim):
            held = self._fold.claims.keys.get(key)
            if held is None:  # who had it has given it up since
                raise EngineDown("the Idempotency-Key is just being given up")
            if not self._placement.is_mine(held):
                raise Elsewhere("the Idempotency-Key", held.node)
        return None

    async def answer(self, key: str, fingerprint: bytes, answer: bytes | None) -> None:
        """Keep the answer of a claimed key, here and in the log; None gives it up.

        Raises:
            JournalUnavailable: If that cannot be written.
        """
        if answer is not None:
            held = self._placement.key(key)
            mine = held is not None and self._placement.is_mine(held)
            # Not ours: another node had it in the same moment, and has given it up, or has used it for something else.
            claims = [] if mine else [Claim("key", key, (fingerprint, time.time_ns() // 1_000_000))]
            await self._journal.append_waiting(Append(claims=claims, answers=[(key, answer)]))
            return
        # In this order: who finds it free here claims it in the log behind that, and is not given up with it.
        released = self._placement.release_key(key)
        await self._journal.answer_key(key, None)
        await asyncio.shield(released)  # from when it is given up is asked later, too
