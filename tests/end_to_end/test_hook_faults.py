"""Hooks when something dies, fills up, is pruned, restored or reconfigured: nothing is lost without being told."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mooring_service.hooks.sender import READ_AGAIN_S
from tests.command_line import mooring
from tests.conftest import RunningService, StartService, rounds, wait_for
from tests.end_to_end.test_faults import full_disk
from tests.proxies import free_port
from tests.receiver import Got, Receiver, all_events, hook
from tests.servers import EchoServer

QUICK = {"delay": 0.1, "maxDelay": 1}


class Ledger:
    """A receiver that keeps exactly once by the rule of equality, and by the ids behind it."""

    def __init__(self) -> None:
        self.next = ""
        self.kept: list[str] = []
        self.repeated = 0
        self.gaps: list[dict[str, Any]] = []

    def take(self, got: Got) -> int:
        page = got.page
        ids = [event["id"] for event in page["events"]]
        if page["next"] == self.next:
            self.repeated += 1
            return 200
        if self.next in ids:
            self.repeated += 1
            ids = ids[ids.index(self.next) + 1 :]
        else:
            assert page["after"] == self.next or not self.next or any(e["kind"] == "gap" for e in page["events"]), page
        self.gaps += [event for event in page["events"] if event["kind"] == "gap"]
        self.kept += ids
        self.next = page["next"]
        return 200


@rounds(3, 50)
async def test_kills_of_the_service_lose_nothing_and_repeat_a_batch_at_most(
    start_service: StartService, echo: EchoServer, rounds: int
) -> None:
    seed = random.randrange(2**32)
    print("seed", seed)
    chance = random.Random(seed)
    service = await start_service()
    ledger = Ledger()
    async with Receiver(ledger.take) as receiver:
        await hook(service, "shop", receiver.url, after="start", maxEvents=50)
        opened = []
        for number in range(rounds):
            opened.append((await service.open(f"{echo.url}push?count=2000", worker=f"w{number % 4}"))["id"])
            await asyncio.sleep(chance.uniform(0.0, 0.3))
            await service.restart_after_kill()
            await wait_for(service.is_ready)  # the workers are adopted
        for connection in opened:
            await service.events(connection, count=2001)  # nothing comes any more
        expected = [event["id"] for event in await all_events(service)]
        await wait_for(lambda: ledger.kept[-1:] == expected[-1:], 100, "all of it")
        assert ledger.kept == expected and not ledger.gaps
        assert ledger.repeated <= rounds


@pytest.mark.alone
async def test_a_restart_under_load_goes_on_within_three_seconds(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service()
    ledger = Ledger()
    async with Receiver(ledger.take) as receiver:
        await hook(service, "shop", receiver.url, after="start")
        record = await service.open(f"{echo.url}push?count=400&interval=0.01")
        await wait_for(lambda: len(ledger.kept) > 50)
        assert "restarted" in (await mooring(service, "restart")).out
        fresh = await service.open(echo.url, worker="fresh")
        opened = asyncio.get_running_loop().time()
        await wait_for(
            lambda: any(got.at > opened - 1.0 and str(fresh["id"]) in got.body.decode() for got in receiver.got)
        )
        assert asyncio.get_running_loop().time() - opened < 3.0, "it goes on as soon as the service does"
        events = [event["id"] for event in await service.events(record["id"], count=401)]
        await wait_for(lambda: set(events) <= set(ledger.kept))
        assert len(ledger.kept) == len(set(ledger.kept))
        assert ledger.repeated <= 1


async def test_a_worker_that_is_killed_tells_its_ends_in_order(start_service: StartService, echo: EchoServer) -> None:
    service = await start_service()
    async with Receiver() as receiver:
        await hook(service, "shop", receiver.url, after="start")
        for _ in range(5):
            await service.open(f"{echo.url}push?count=500")
        os.kill((await service.get("/v1/workers/main"))["pid"], signal.SIGKILL)
        await wait_for(lambda: sum(event["kind"] == "onTerminate" for event in receiver.taken) == 5)
        await wait_for(lambda: _started_again(service))  # the last that is told
        expected = [event["id"] for event in await all_events(service)]
        await wait_for(lambda: receiver.ids[-1:] == expected[-1:])
        assert receiver.ids == expected


async def _started_again(service: RunningService) -> bool:
    return len(await _told(service, "workerStarted")) == 2


async def test_a_hook_that_is_failing_is_so_after_a_restart_and_told_once(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    async with Receiver(lambda got: 400) as receiver:
        await hook(service, "shop", receiver.url, after="start", retry=QUICK, maxEvents=1)
        await service.open(echo.url)
        await wait_for(lambda: _is(service, status="Failing"))
        before = await service.get("/v1/hooks/shop")
        for restart in (service.restart_after_kill, _in_order(service)):
            await wait_for(lambda: _told(service, "hookFailing"))
            await _posts_again(receiver)  # so that it was told is stored, too
            await restart()
            await _posts_again(receiver)
            after = await service.get("/v1/hooks/shop")
            assert (after["status"], after["failingSince"]) == ("Failing", before["failingSince"])
            await wait_for(service.is_ready)
            assert (await service.get("/readyz"))["hooks"] == ["shop"]
        assert len(await _told(service, "hookFailing")) == 1
        receiver.answer = lambda got: 200
        (recovered,) = await wait_for(lambda: _told(service, "hookRecovered"))
        assert recovered["event"]["downMs"] > 0
        await wait_for(lambda: _is(service, status="Active", failingSince=None))
        receiver.answer = lambda got: 400
        await service.open(echo.url)
        await wait_for(lambda: _told_twice(service))


async def _posts_again(receiver: Receiver) -> None:
    count = len(receiver.got)
    await wait_for(lambda: len(receiver.got) > count + 1)


def _in_order(service: RunningService) -> Callable[[], Awaitable[object]]:
    async def restart() -> None:
        await service.stop()
        await service.start()

    return restart


async def _told(service: RunningService, kind: str) -> list[dict[str, Any]]:
    return await all_events(service, f"&kind={kind}")


async def _told_twice(service: RunningService) -> bool:
    return len(await _told(service, "hookFailing")) == 2


async def _caught_up(service: RunningService, name: str = "shop") -> bool:
    return (await service.get(f"/v1/hooks/{name}"))["lag"] == 0


async def test_on_a_full_disk_a_hook_does_not_go_past_what_it_can_store(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    async with Receiver() as receiver:
        await hook(service, "shop", receiver.url, after="start", maxEvents=10)
        await service.open(f"{echo.url}push?count=100")
        await receiver.until(102)
        await wait_for(lambda: _caught_up(service))
        before = await service.get("/v1/hooks/shop")
        async with full_disk(service):
            await hook(service, "other", receiver.url, 507)
            moved = {"after": "start"}
            await service.call("POST", "/v1/hooks/shop/cursor", None, json=moved)
            count = len(receiver.taken)
            await asyncio.sleep(0.5)
            assert len(receiver.taken) <= count + 10, "one batch may be under way, and no second"
        assert before["lag"] == 0
        await wait_for(lambda: _caught_up(service))
        expected = [event["id"] for event in await all_events(service)]
        assert list(dict.fromkeys(receiver.ids)) == expected


async def test_a_hook_of_the_configuration_is_its_and_keeps_its_place_when_it_vanishes(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    secret = "whsec_" + base64.b64encode(os.urandom(32)).decode()
    (tmp_path / "secret").write_text(f"{secret}\n")
    config = tmp_path / "mooring.toml"
    async with Receiver() as receiver:
        declared = f'[hooks.shop]\nurl = "{receiver.url}"\nsecret_file = "{tmp_path}/secret"\nkinds = ["onMessage"]\n'
        config.write_text(declared)
        service = await start_service("--config", str(config))
        record = await service.get("/v1/hooks/shop")
        assert record["configured"] and record["status"] == "Active"
        for method, path in (("PUT", ""), ("DELETE", ""), ("POST", "/secrets")):
            body = {"json": {"url": receiver.url}} if method == "PUT" else {}
            problem = await service.call(method, f"/v1/hooks/shop{path}", 409, **body)
            assert problem["type"].endswith("hook-configured")
        await service.open(f"{echo.url}push?count=3")
        await receiver.until(3)
        receiver.got[0].verify(secret)
        config.write_text("")
        await _read_again(service)
        await wait_for(lambda: _is(service, status="Paused", reason="not-configured"))
        await service.call("POST", "/v1/hooks/shop/resume", 409)
        await service.open(f"{echo.url}push?count=3")
        await service.restart_after_kill()
        assert await _is(service, status="Paused", reason="not-configured")
        config.write_text(declared.replace('"onMessage"', '"onMessage", "onTerminate"'))
        await _read_again(service)
        await receiver.until(6)
        assert await _is(service, status="Active", generation=2)
        stored = json.loads((service.state_dir / "hooks.json").read_text())
        assert stored["hooks"]["shop"]["secrets"] == [] and secret not in json.dumps(stored)


async def test_a_hook_whose_file_of_secrets_cannot_be_read_posts_nothing_until_it_can(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    config, file = tmp_path / "mooring.toml", tmp_path / "secret"
    async with Receiver() as receiver:
        config.write_text(f'[hooks.shop]\nurl = "{receiver.url}"\nsecret_file = "{file}"\nafter = "start"\n')
        service = await start_service("--config", str(config))
        assert await _is(service, status="Paused", reason="secret-file", secrets=[])
        await service.open(echo.url)
        for verb in ("resume", "test"):
            problem = await service.call("POST", f"/v1/hooks/shop/{verb}", 409)
            assert problem["type"].endswith("hook-conflict") and str(file) not in problem["detail"]
        await service.call("POST", "/v1/hooks/shop/retry")
        file.write_text("whsec_" + base64.b64encode(b"k" * 32).decode())
        await _read_again(service)
        await receiver.until(2)
        for got in receiver.got:
            got.verify(file.read_text())


async def test_a_hook_of_the_configuration_that_was_paused_stays_so_when_it_is_back_or_has_its_secret(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    (file := tmp_path / "secret").write_text(secret := "whsec_" + base64.b64encode(b"k" * 32).decode())
    late, config = tmp_path / "late", tmp_path / "mooring.toml"

    async def paused(**reasons: str) -> None:
        """Have the configuration read again, until these hooks are paused for these reasons."""
        service.process.send_signal(signal.SIGHUP)

        async def are_so() -> bool:
            found = {hook["name"]: hook["reason"] for hook in (await service.get("/v1/hooks"))["hooks"]}
            return found.items() >= reasons.items()

        await wait_for(are_so, what=f"paused: {reasons}")

    async with Receiver() as receiver:
        declared = f'[hooks.shop]\nurl = "{receiver.url}"\nsecret_file = "{file}"\nkinds = ["onOpen"]\n'
        config.write_text(declared)
        service = await start_service("--config", str(config))
        await service.call("POST", "/v1/hooks/shop/pause", json={"reason": "a feast"})
        config.write_text("")
        await paused(shop="not-configured")
        await service.restart_after_kill()
        assert await _is(service, reason="not-configured")
        config.write_text(declared)
        await paused(shop="a feast")
        await service.open(echo.url)
        assert (await service.call("POST", "/v1/hooks/shop/resume"))["status"] == "Active"
        await receiver.until(1)

        config.write_text("")
        await paused(shop="not-configured")
        await service.call("POST", "/v1/hooks/shop/pause", json={})
        for name, more in (("begins", "paused = true"), ("waits", "")):
            declared += f'[hooks.{name}]\nurl = "{receiver.url}"\nsecret_file = "{late}"\nafter = "start"\n{more}\n'
        config.write_text(declared)
        await paused(shop="asked", begins="secret-file", waits="secret-file")
        await service.call("POST", "/v1/hooks/waits/pause", json={"reason": "by hand"})
        late.write_text(secret)
        await paused(shop="asked", begins="asked", waits="by hand")
        assert len(receiver.got) == 1


async def _is(service: RunningService, **wanted: Any) -> bool:
    record = await service.get("/v1/hooks/shop")
    return all(record[key] == value for key, value in wanted.items())


async def _read_again(service: RunningService) -> None:
    before = service.log().count("were read again")
    service.process.send_signal(signal.SIGHUP)
    await wait_for(lambda: service.log().count("were read again") > before)


async def test_secrets_of_all_sorts_stand_nowhere_but_in_their_file(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_API_ACCESS_LOG": "true", "MOORING_LOG_LEVEL": "debug"})
    headers = {"Authorization": "Bearer canary-header"}
    async with Receiver(lambda got: 500) as receiver:
        url = f"{receiver.url}?token=canary-query"
        secret = (await hook(service, "shop", url, after="start", retry=QUICK, headers=headers))["secret"]
        dead = f"http://127.0.0.1:{free_port()}/?token=canary-query"
        await hook(service, "dead", dead, after="start", retry=QUICK, headers=headers)
        await service.open(f"{echo.url}push?count=3")
        await wait_for(lambda: len(receiver.got) > 3)
        shown = [await service.get(path) for path in ("/v1/hooks/shop/attempts", "/v1/hooks/dead/attempts")]
        shown += [await all_events(service)]
        records = [await service.get("/v1/hooks/shop"), await service.get("/v1/hooks")]
        async with service.client.get("/metrics") as response:
            shown.append(await response.text())
        await service.stop()
        texts = {"log": service.log(), "shown": json.dumps(shown)}
        for path in service.state_dir.glob("journal*"):
            texts[path.name] = path.read_bytes().decode("latin-1")
        for name, text in texts.items():
            for canary in ("canary-query", "canary-header", secret, secret.removeprefix("whsec_")):
                assert canary not in text, f"{canary} in {name}"
        assert "canary" not in json.dumps(records) and secret not in json.dumps(records)
        assert records[0]["url"] == f"{receiver.url}?***" and records[0]["headers"] == {"Authorization": "***"}
        file = service.state_dir / "hooks.json"
        assert file.stat().st_mode & 0o777 == 0o600 and secret in file.read_text()


async def test_a_hundred_hooks_to_a_dead_port_try_a_few_times_a_second(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    dead = f"http://127.0.0.1:{free_port()}/"
    await service.open(f"{echo.url}push?count=100")
    for number in range(100):
        await hook(service, f"dead-{number}", dead, after="start", retry={"delay": 5, "maxDelay": 60})
    await hook(service, "one-more", dead, 429)
    await asyncio.sleep(3.0)  # each has failed once, and waits 2.5 to 5 s
    used_s, begun = _cpu_s(service), time.monotonic()
    await asyncio.sleep(4.0)
    share = (_cpu_s(service) - used_s) / (time.monotonic() - begun)
    assert share < 0.3, f"{share:.3f} of a core, while they are at their quickest"


def _cpu_s(service: RunningService) -> float:
    fields = Path(f"/proc/{service.process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_a_file_of_hooks_that_cannot_be_read_is_said_and_begun_over_by_nobody(
    start_service: StartService,
) -> None:
    service = await start_service()
    await service.stop()
    (service.state_dir / "hooks.json").write_text("{")
    failed = await mooring(service, "serve", "--listen", "127.0.0.1:0")
    assert failed.code != 0 and "hooks.json" in failed.errors
    assert (service.state_dir / "hooks.json").read_text() == "{"


async def test_with_a_journal_in_memory_a_hook_begins_anew_and_says_so(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service(env={"MOORING_JOURNAL_STORE": "memory"})
    async with Receiver() as receiver:
        secret = (await hook(service, "shop", receiver.url, after="start"))["secret"]
        await service.open(echo.url)
        await receiver.until(2)
        await service.stop()
        await service.start()
        await service.open(echo.url)
        await receiver.until(4)
        assert "gap" not in {event["kind"] for event in receiver.taken}
        receiver.got[-1].verify(secret)
        await wait_for(lambda: "begins anew" in service.log())


async def test_a_hook_whose_journal_cannot_be_read_says_so_once_and_goes_on_when_it_can(
    start_service: StartService, echo: EchoServer
) -> None:
    service = await start_service()
    await service.open(echo.url)
    await service.restart_after_kill()  # what was before is in the file alone
    path = service.state_dir / "journal.db"
    async with Receiver() as receiver:
        path.rename(path.with_name("away.db"))  # who has it open goes on; who opens it finds none
        await hook(service, "shop", receiver.url, after="start")
        await wait_for(lambda: "hook shop waits for the journal" in service.log())
        await asyncio.sleep(3.5 * READ_AGAIN_S)
        path.with_name("away.db").rename(path)
        await receiver.until(1)
    assert service.log().count("hook shop waits for the journal") == 1
