"""The commands of hooks, the receiver that makes the first minutes work, and `tail --cursor`."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from mooring_api.commands.hook_receiver import events_of
from mooring_service.hook_options import secret_of
from tests.command_line import Ran, command, mooring
from tests.conftest import RunningService, StartService, wait_for
from tests.receiver import Receiver, all_events, hook
from tests.servers import EchoServer

Listening = Callable[..., Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def listening() -> AsyncIterator[Listening]:
    """Run ``mooring hooks listen``; it is gone at the end, whatever the test meets with."""
    started: list[asyncio.subprocess.Process] = []

    async def start(service: RunningService, secret: Path, *options: str) -> asyncio.subprocess.Process:
        words = command(service, "hooks", "listen", "--port", "0", "--secret-file", str(secret), *options)
        pipe = subprocess.PIPE
        started.append(await asyncio.create_subprocess_exec(*words, stdout=pipe, stderr=pipe))
        return started[-1]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _tested(service: RunningService, name: str) -> Ran:
    """Have a hook tested; a service does that once a second, and another test may just have asked."""
    while "test posts per second" in (tested := await mooring(service, "hooks", "test", name)).errors:
        await asyncio.sleep(0.2)
    return tested


async def test_a_hook_to_listen_shows_its_first_verified_event(
    shared: RunningService, echo: EchoServer, tmp_path: Path, listening: Listening
) -> None:
    secret = tmp_path / "secret"
    listener = await listening(shared, secret, "--limit", "3")
    said = ""
    while "hooks set try" not in said:
        said += (await asyncio.wait_for(listener.stderr.readline(), 60)).decode()
    assert secret.stat().st_mode & 0o777 == 0o600
    words = re.search(r"mooring (hooks set try \S+ --secret-file \S+)", said)[1].split()
    made = await mooring(shared, *words, "--kind", "onMessage")
    assert "it signs with the given secret" in made.out, made.errors
    tested = await _tested(shared, "try")
    assert tested.code == 0 and "status 200" in tested.out
    await shared.open(f"{echo.url}push?count=3")
    out, errors = await asyncio.wait_for(listener.communicate(), 60)
    assert [json.loads(line)["event"]["data"] for line in out.splitlines()] == ["1", "2", "3"]
    told = re.findall(rb"verified try-1_\S+  (\d+) (events?)  attempt 1\n", errors)
    assert told and all((word == b"event") == (count == b"1") for count, word in told) and listener.returncode == 0
    await mooring(shared, "hooks", "rm", "try")


SAID = ["\u2028 \x85 \x1e", "grüße"]


@pytest.mark.parametrize("form", ["page", "lines", "event"])
async def test_listen_prints_one_line_an_event_whatever_is_in_it(
    shared: RunningService, echo: EchoServer, tmp_path: Path, listening: Listening, form: str
) -> None:
    name, own = f"said-{form}", f"said-{form}"
    record = await shared.open(echo.url, worker=own, dataType="object")
    listener = await listening(shared, tmp_path / "secret", "--limit", str(len(SAID) + 1))
    said = ""
    while "hooks set try" not in said:
        said += (await asyncio.wait_for(listener.stderr.readline(), 60)).decode()
    url = re.search(r"http://\S+/", said)[0]
    words = ("--worker", own, "--kind", "onMessage", "--format", form, "--secret-file", str(tmp_path / "secret"))
    assert (await mooring(shared, "hooks", "set", name, url, *words)).code == 0
    for text in SAID:
        await shared.send(record["id"], json.dumps(text, ensure_ascii=False).encode(), "application/json")
    await shared.send(record["id"], b"1" * 5_000, "application/json")
    out, errors = await asyncio.wait_for(listener.communicate(), 60)
    lines = out.decode().splitlines()
    assert len(lines) == len(SAID) + 1, errors
    assert '"data":' + "1" * 5_000 + "}" in lines[-1], "no number is rounded"
    assert "\\u2028" in lines[0]
    await mooring(shared, "hooks", "rm", name)


def test_a_page_with_half_of_a_character_is_read_too() -> None:
    page = b'{"hook":"a","events":[{"id":"e-1","event":{"data":"\\ud800"}},{"id":"e-2"}]}'
    assert events_of("application/json", page) == ['{"id":"e-1","event":{"data":"\\ud800"}}', '{"id":"e-2"}']
    with pytest.raises(ValueError):
        events_of("application/json", b'{"events":[')


async def test_listen_refuses_what_is_signed_with_another_secret(
    shared: RunningService, tmp_path: Path, listening: Listening
) -> None:
    listener = await listening(shared, tmp_path / "secret")
    said = ""
    while "listening at" not in said:
        said += (await asyncio.wait_for(listener.stderr.readline(), 60)).decode()
    url = re.search(r"http://\S+/", said)[0]
    await hook(shared, "other", url)
    tested = await _tested(shared, "other")
    assert (tested.code, "status 401" in tested.out) == (1, True), tested
    listener.send_signal(signal.SIGINT)
    _, errors = await asyncio.wait_for(listener.communicate(), 60)
    assert b"is not signed with this secret" in errors and listener.returncode == 130
    await shared.call("DELETE", "/v1/hooks/other")


async def test_each_command_does_what_its_verb_does(shared: RunningService, echo: EchoServer, worker: str) -> None:
    async with Receiver(lambda got: 400 if got.events else 200) as receiver:
        made = await mooring(shared, "hooks", "set", "shop", receiver.url, "--worker", worker, "--header", "X-A: b")
        assert made.code == 0 and "secret (shown this once): whsec_" in made.out
        again = await mooring(shared, "hooks", "set", "shop", receiver.url, "--worker", worker, "--json")
        assert json.loads(again.out)["headers"] == {} and "secret" not in json.loads(again.out)
        await shared.open(echo.url, worker=worker)

        async def held() -> bool:
            return (await shared.get("/v1/hooks/shop"))["status"] == "Failing"

        await wait_for(held)
        shown = await mooring(shared, "hooks", "show", "shop")
        assert "Failing" in shown.out and "held: " in shown.out and "status 400" in shown.out
        through = re.search(r"held: (\S+)", shown.out)[1]
        again = await mooring(shared, "hooks", "skip", "shop", "--through", through, "--json")
        assert json.loads(again.out) == {"skipped": 1}
        assert "shop" in (await mooring(shared, "hooks")).out
        assert "400" in (await mooring(shared, "hooks", "log", "shop")).out
        assert "Paused" in (await mooring(shared, "hooks", "pause", "shop", "--reason", "it moves")).out
        for words in (("resume",), ("retry",), ("replay", "--after", "now"), ("rotate",)):
            ran = await mooring(shared, "hooks", words[0], "shop", *words[1:], "--json")
            assert ran.code == 0, ran.errors
            assert len(json.loads(ran.out)) > 0
        gone = await mooring(shared, "hooks", "rm", "shop")
        assert gone.code == 0 and re.fullmatch(r"removed shop, which was at \S+\n", gone.out), "not as if it went on"
        missing = await mooring(shared, "hooks", "show", "shop")
        assert missing.code == 1 and "no hook 'shop'" in missing.errors
        assert (await mooring(shared, "hooks", "set", "a.b", receiver.url)).code == 1


async def test_a_given_secret_is_the_one_that_signs_or_it_is_said(shared: RunningService, tmp_path: Path) -> None:
    async with Receiver() as receiver:
        files = [tmp_path / "one", tmp_path / "two"]
        for at, file in enumerate(files):
            file.write_text(secret_of(bytes([at]) * 32) + "\n")
        words = ("hooks", "set", "signs", receiver.url, "--secret-file")
        assert "it signs with the given secret" in (await mooring(shared, *words, str(files[0]))).out
        assert "it signs with the given secret" in (await mooring(shared, *words, str(files[0]))).out, "again"
        other = await mooring(shared, *words, str(files[1]))
        assert "signs with another secret" in other.out and "hooks rotate signs --secret-file" in other.out
        rotated = await mooring(shared, "hooks", "rotate", "signs", "--secret-file", str(files[1]))
        assert "it signs with the given secret" in rotated.out
        assert "it signs with the given secret" in (await mooring(shared, *words, str(files[1]))).out
    await mooring(shared, "hooks", "rm", "signs")


@pytest.mark.parametrize("content", [b"", b"whsec_c2hvcnQ=\n", b"canary\n", b"\xff\xfe"], ids=repr)
async def test_a_file_without_a_secret_is_one_line_that_quotes_nothing_of_it(
    shared: RunningService, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    for words in (("set", "never", "http://127.0.0.1:9/"), ("rotate", "never"), ("listen", "--port", "0")):
        ran = await mooring(shared, "hooks", *words, "--secret-file", str(file))
        assert ran.code == 1 and ran.errors.startswith(f"Error: {file}: ") and ran.errors.count("\n") == 1, ran.errors
        assert "canary" not in ran.errors and "c2hvcnQ" not in ran.errors
    await shared.get("/v1/hooks/never", 404)


async def test_tail_with_a_cursor_goes_on_where_it_was_killed(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    service = await start_service()
    place, lines = tmp_path / "place", tmp_path / "events.ndjson"

    def tail() -> subprocess.Popen[bytes]:
        with lines.open("ab") as out:
            return subprocess.Popen(
                command(service, "tail", "--json", "--cursor", str(place), "--after", "start", "--fsync"), stdout=out
            )

    opened = []
    for _ in range(3):
        process = tail()
        opened.append((await service.open(f"{echo.url}push?count=500"))["id"])
        await wait_for(lambda: place.exists() and lines.stat().st_size > 0)
        process.kill()
        await asyncio.to_thread(process.wait)
    process = tail()
    for connection in opened:  # else the last of all would be another one a moment later
        await service.events(connection, count=501)
    await service.call("DELETE", f"/v1/connections/{opened[-1]}")
    expected = [event["id"] for event in await all_events(service)]
    await wait_for(lambda: place.read_text().strip() == expected[-1])
    process.send_signal(signal.SIGINT)
    await asyncio.to_thread(process.wait)
    got = []
    for line in lines.read_bytes().splitlines():
        if line.startswith(b'{"id"') and line.endswith(b"}"):  # one that was cut by the kill comes again, whole
            got.append(json.loads(line)["id"])
    assert list(dict.fromkeys(got)) == expected, "each, in order; some twice, none missing"


async def test_tail_says_what_is_wrong_with_its_cursor(shared: RunningService, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text("two words\n")
    assert "does not hold one event's id" in (await mooring(shared, "tail", "--json", "--cursor", str(place))).errors
    assert (await mooring(shared, "tail", "--cursor", str(place))).code == 2
    assert (await mooring(shared, "tail", "--json", "--fsync")).code == 2
