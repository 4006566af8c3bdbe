"""Ids are reserved before they are needed: each once, in order, and no open waits for a commit that is about them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring.errors import JournalUnavailable
from mooring_service.processes.reports import ID_BLOCK
from mooring_service.reserved import LOW, ReservedIds
from tests.service.fake_worker import stalled_disk, until
from tests.service.journal.test_journal import running


async def test_many_at_once_get_each_another_id_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path) as opened:
        ids = ReservedIds(opened.journal)
        found = await asyncio.gather(*(ids.next() for _ in range(3 * ID_BLOCK)))
        assert found == sorted(set(found))
        await ids.close()
        assert await ReservedIds(opened.journal).next() > found[-1]


async def test_the_next_block_is_there_before_the_last_is_used_up(tmp_path: Path) -> None:
    async with running(tmp_path) as opened:
        ids = ReservedIds(opened.journal)
        await ids.allot()
        assert ids.coming == 1
        for _ in range(ID_BLOCK - LOW + 1):
            last = await ids.next()
        await until(lambda: ids._allotting is None)
        with stalled_disk(tmp_path):
            for _ in range(ID_BLOCK):
                before, last = last, await asyncio.wait_for(ids.next(), 60)
                assert last == before + 1
        await ids.close()


async def test_a_block_that_cannot_be_reserved_is_missed_by_nobody_before_all_are_given_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path) as opened:
        journal = opened.journal
        ids = ReservedIds(journal)
        await ids.allot()

        async def refused(count: int) -> int:
            raise JournalUnavailable("the disk is full")

        with monkeypatch.context() as broken:
            broken.setattr(journal, "allot_ids", refused)
            for expected in range(1, ID_BLOCK + 1):
                assert await ids.next() == expected
            with pytest.raises(JournalUnavailable, match="full"):
                await ids.next()
        assert await ids.next() == ID_BLOCK + 1
        await ids.close()
