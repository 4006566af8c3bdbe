"""Subscribers that do not read are cut off, but not for the time in which we were the ones who were away."""

from __future__ import annotations

import asyncio
import time

from mooring_api.rest.stalls import StallWatch
from tests.conftest import wait_for


async def test_a_write_that_takes_too_long_is_cut_off_and_our_own_absence_does_not_count() -> None:
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    async with server:
        _, ours = await asyncio.open_connection("127.0.0.1", server.sockets[0].getsockname()[1])
        theirs = await accepted.get()
        stalls = StallWatch(0.8)
        with stalls.watch(theirs.transport):
            await asyncio.sleep(0.3)  # the clock has begun
            time.sleep(2)  # as if stopped: longer than the deadline
            awake_at = time.monotonic()
            for _ in range(5):  # the look that is due is of the first pass
                await asyncio.sleep(0)
                assert not theirs.transport.is_closing(), "judged at the first look after our own absence"
            await wait_for(theirs.transport.is_closing)
            assert time.monotonic() - awake_at > 0.7, "its clock has begun anew"
        ours.close()
        theirs.close()


async def test_one_timer_serves_all_writes_and_ends_with_the_last() -> None:
    stalls = StallWatch(0.1)
    with stalls.watch(None), stalls.watch(None):
        assert stalls.pending
    await wait_for(lambda: not stalls.pending)
