"""Hooks where the journal no longer keeps what they lack, or is another one: one `gap`, and never anything twice."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import mooring
from tests.conftest import RunningService, StartService, wait_for
from tests.receiver import Receiver, all_events, hook
from tests.servers import EchoServer

QUICK = {"delay": 0.1, "maxDelay": 1}


async def test_what_was_pruned_meanwhile_is_one_gap_and_then_the_oldest_kept(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_JOURNAL_MAX_EVENTS": "100"})
    async with Receiver(lambda got: 503) as receiver:
        await hook(service, "shop", receiver.url, retry=QUICK, paused=True)
        before = (await service.get("/v1/hooks/shop"))["cursor"]
        for _ in range(4):
            record = await service.open(f"{echo.url}push?count=100")
            await wait_for(lambda record=record: _received(service, record["id"], 100))
            await service.call("DELETE", f"/v1/connections/{record['id']}")

        async def pruned() -> bool:
            return len(await all_events(service)) <= 100  # and no further, as nothing comes any more

        await wait_for(pruned)
        receiver.answer = lambda got: 200
        await service.call("POST", "/v1/hooks/shop/resume")
        expected = [event["id"] for event in await all_events(service)]
        await wait_for(lambda: receiver.ids[-1:] == expected[-1:])
        (at,) = [at for at, event in enumerate(receiver.taken) if event["kind"] == "gap"]
        gap = receiver.taken[at]["event"]
        assert gap["from"] == ([before, *receiver.ids][at]), "behind what was read before, if anything was"
        from_, oldest = int(gap["from"].split("-")[1]), int(expected[0].split("-")[1])
        assert gap["lost"] == oldest - 1 - from_
        assert receiver.ids[at + 1 :] == expected


async def _received(service: RunningService, connection: int, count: int) -> bool:
    return bool((await service.record(connection))["stats"]["messagesIn"] == count)


async def test_down_for_longer_than_max_age_is_warned_of_at_half_and_then_one_gap(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_JOURNAL_MAX_AGE": "8"})
    async with Receiver(lambda got: 503) as receiver:
        retry = {"delay": 60, "maxDelay": 60}
        await hook(service, "shop", receiver.url, kinds=["onMessage"], maxEvents=10, retry=retry)
        before = (await service.get("/v1/hooks/shop"))["cursor"]
        record = await service.open(f"{echo.url}push?count=100")
        old = [event["id"] for event in await service.events(record["id"], count=101)]
        await wait_for(lambda: receiver.got)
        await wait_for(lambda: "hook shop lacks events that are" in service.log())
        assert service.log().count("lacks events") == 1

        async def pruned() -> bool:
            return old[-1] not in [event["id"] for event in await all_events(service)]

        await wait_for(pruned, 60)
        receiver.answer = lambda got: 200
        held = [event["id"] for event in receiver.got[0].events]
        receiver.taken.clear()
        await service.call("POST", "/v1/hooks/shop/retry")
        await service.send(record["id"], "fresh")
        await wait_for(lambda: receiver.taken and receiver.taken[-1]["event"].get("data") == "fresh")
        gaps = [event["event"] for event in receiver.taken if event["kind"] == "gap"]
        kept = [event["id"] for event in receiver.taken if event["kind"] != "gap"]
        assert len(gaps) == 1 and kept[: len(held)] == held, "what it held was read before, and is no part of the gap"
        assert gaps[0]["from"] == (held[-1] if held else before)
        assert gaps[0]["lost"] == _position(gaps[0]["to"]) - _position(gaps[0]["from"])
        assert all(_position(one) > _position(gaps[0]["to"]) for one in kept[len(held) :])


def _position(id_: str) -> int:
    return int(id_.rsplit("-", 1)[1])


async def test_a_journal_that_is_set_aside_leaves_the_hooks_and_is_a_gap(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    async with Receiver() as receiver:
        secret = (await hook(service, "shop", receiver.url, after="start"))["secret"]
        await service.open(f"{echo.url}push?count=5")
        await receiver.until(7)
        await service.stop()
        path = service.state_dir / "journal.db"
        for beside in service.state_dir.glob("journal.db-*"):
            beside.unlink()
        path.write_bytes(b"\x00" * path.stat().st_size)
        receiver.got.clear()
        receiver.taken.clear()
        await service.start()
        await service.open(echo.url)
        await receiver.until(3)
        assert receiver.got[0].verify(secret)
        assert receiver.taken[0]["kind"] == "gap" and receiver.taken[0]["event"]["lost"] is None
        assert [event["kind"] for event in receiver.taken[1:]] == ["workerStarted", "onOpen"]


async def test_a_restored_copy_is_a_gap_and_nothing_of_it_is_posted_again(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start_service()
    async with Receiver() as receiver:
        await hook(service, "shop", receiver.url, after="start")
        record = await service.open(f"{echo.url}push?count=20")
        await service.call("DELETE", f"/v1/connections/{record['id']}")
        await receiver.until(23)
        await wait_for(lambda: _caught_up(service))
        copy = tmp_path / "copy.db"
        assert f"{service.state_dir}/hooks.json is not in it" in (await mooring(service, "backup", str(copy))).out
        await service.stop()
        other = RunningService(service.state_dir.parent / "other")
        other.state_dir.mkdir(mode=0o700)
        without = RunningService(service.state_dir.parent / "without")
        told = (await mooring(without, "restore", str(copy))).out
        assert "1 hook (shop) will go on" in told and f"put the hooks.json of then into {without.state_dir}" in told
        (other.state_dir / "hooks.json").write_bytes((service.state_dir / "hooks.json").read_bytes())
        told = (await mooring(other, "restore", str(copy))).out
        assert "1 hook (shop) will go on" in told and "before the start" not in told
        receiver.taken.clear()
        moved = await start_service(name="other")
        await moved.open(echo.url, worker="new")
        await receiver.until(3)
        kinds = [event["kind"] for event in receiver.taken]
        assert kinds[0] == "gap" and kinds.count("gap") == 1 and "onMessage" not in kinds
        assert set(kinds[1:]) == {"workerStarted", "onOpen"}


async def _caught_up(service: RunningService, name: str = "shop") -> bool:
    return (await service.get(f"/v1/hooks/{name}"))["lag"] == 0
