"""The real thing as a subprocess, and small tools to watch it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import hypothesis
import pytest

from tests.servers import EchoServer

# Neither a deadline nor "too slow" is about our code: both are the machine's clock.
hypothesis.settings.register_profile(
    "mooring", database=None, deadline=None, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("mooring")

pytest_plugins = ["tests.cluster_kit.fixtures", "tests.selection"]

ROOT = Path(__file__).parents[1]
START_S = 60.0  # a deadline, not a figure: many may be starting at once
STOP_S = 60.0  # likewise

# Each process that imports aiohttp reads the machine's certificate authorities: 50 ms of CPU, several hundred times. Only
# the tests of TLS need them.
os.environ["SSL_CERT_FILE"] = os.devnull

# Who starts the tests in the background of a script has told them to ignore Ctrl-C, and what they start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What a service, a worker or a command leaves unclosed stands in its log, and fails the test.
os.environ["PYTHONWARNINGS"] = "default::ResourceWarning"


async def wait_for(predicate: Callable[[], Any], timeout_s: float = 60.0, what: str = "") -> Any:
    """Wait until `predicate` (a function, or one that returns an awaitable) is true; return its value."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what or predicate}"
        await asyncio.sleep(0.01)


def end_processes(pids: Iterable[int]) -> None:
    """Kill these; one that was just being started, or was told to, ends by itself meanwhile."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def files_in(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Yield every file below a folder and what it holds; what goes meanwhile, folders too, is passed over (`rglob` would fail)."""
    for parent, _, names in os.walk(folder):
        for path in (Path(parent, name) for name in names):
            try:
                content = path.read_bytes() if path.is_file() else None
            except FileNotFoundError:
                continue
            if content is not None:
                yield path, content


def _open_files(pid: int) -> Iterator[str]:
    """Yield what a process has open; one of them that it closes meanwhile hides none of the others."""
    with contextlib.suppress(OSError):  # the process is gone, or not ours
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                yield os.readlink(f"/proc/{pid}/fd/{fd}")


class RunningService:
    """One `mooring serve`, started and stopped as its users do."""

    def __init__(
        self,
        state_dir: Path,
        *options: str,
        env: dict[str, str | None] | None = None,
        listen: str = "127.0.0.1:0",
        program: Sequence[str] = (sys.executable, "-m", "mooring_api"),
        cwd: Path | None = None,
    ) -> None:
        """`env` is laid over the environment; None takes a variable out of it."""
        self.state_dir = state_dir
        self.options = options
        self.env = env or {}
        self.listen = listen
        self.program = program
        self.cwd = cwd
        self.url = ""
        self.token = ""
        self.process: subprocess.Popen[bytes] | None = None
        self.client: aiohttp.ClientSession
        self.log_path = state_dir.parent / f"{state_dir.name}.service.log"

    async def start(self, *options: str) -> RunningService:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.program, "serve", "--state-dir", str(self.state_dir),
                 *(("--listen", self.listen) if self.listen else ()), *self.options, *options],
                stdout=subprocess.PIPE, stderr=log, cwd=self.cwd,
                env={name: value for name, value in {**os.environ, **self.env}.items() if value is not None},
            )  # fmt: skip
        line = (await asyncio.wait_for(asyncio.to_thread(self.process.stdout.readline), START_S)).decode()
        assert "mooring is ready at http" in line or "unix:" in line, f"no ready line: {line!r}\n{self.log()}"
        self.url = line.split(" at ", 1)[1].split(" ", 1)[0]
        self.token = "" if "--no-auth" in self.options else (self.state_dir / "token").read_text().strip()
        return self.open_client()

    def open_client(self) -> RunningService:
        """Give it a client of the running event loop."""
        if self.url.startswith("http://"):
            self.client = aiohttp.ClientSession(
                self.url, headers={"Authorization": f"Bearer {self.token}"}, connector=aiohttp.TCPConnector(limit=0)
            )
        return self

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def _close_client(self) -> None:
        if getattr(self, "client", None) is not None:
            await self.client.close()

    async def stop(self, timeout_s: float = STOP_S, number: int = signal.SIGTERM) -> int:
        """Stop in order; return the exit code."""
        await self._close_client()
        self.process.send_signal(number)
        code = await asyncio.to_thread(self.process.wait, timeout_s)
        self.process.stdout.close()
        return code

    async def kill(self) -> None:
        await self._close_client()
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        self.process.stdout.close()

    async def kill_all(self) -> None:
        """Kill it and the processes of its workers, as a power cut does; also one that was just being started."""
        workers = self.worker_pids()
        await self.kill()
        end_processes(workers)

        def none_is_left() -> bool:
            left = self.worker_pids()
            end_processes(left)
            return not left

        await wait_for(none_is_left)

    async def restart_after_kill(self, pause_s: float = 0.0) -> None:
        await self.kill()
        await asyncio.sleep(pause_s)
        await self.start()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def worker_log(self, name: str = "main") -> str:
        path = self.state_dir / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def is_ready(self) -> bool:
        """Is the journal written, and is every worker of an earlier service adopted?"""
        async with self.client.get("/readyz") as response:
            return response.status == 200

    def print_logs(self) -> None:
        print(f"---- service log\n{self.log()[-8000:]}")
        for path in (self.state_dir / "logs").glob("*.log"):
            print(f"---- {path.name}\n{path.read_text(errors='replace')[-4000:]}")

    def worker_pids(self) -> list[int]:
        """Pids of worker processes of this state directory, whoever started them."""
        logs = str(self.state_dir / "logs")
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if pid != os.getpid() and any(file.startswith(logs) for file in _open_files(pid))]

    async def clean_up(self) -> None:
        if self.process is not None and self.process.poll() is None:
            try:
                await self.stop()
            except subprocess.TimeoutExpired:
                await self.kill()
        if self.process is not None:
            self.process.stdout.close()
        await self._close_client()
        end_processes(self.worker_pids())
        for path in (self.log_path, *(self.state_dir / "logs").glob("*.log*")):
            text = path.read_text(errors="replace") if path.exists() else ""
            assert "ResourceWarning" not in text, f"{path.name}: {text[text.index('ResourceWarning') - 500 :][:2000]}"

    # the API, in short

    async def get(self, path: str, status: int = 200, **kwargs: Any) -> Any:
        return await self.call("GET", path, status, **kwargs)

    async def call(self, method: str, path: str, status: int | None = 200, **kwargs: Any) -> Any:
        async with self.client.request(method, path, **kwargs) as response:
            body = await response.read()
            if status is not None:
                assert response.status == status, f"{method} {path}: {response.status} {body.decode(errors='replace')}"
            return json.loads(body) if body else None

    async def open(
        self, url: str, status: int = 201, request_headers: dict[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        return await self.call("POST", "/v1/connections", status, json={"url": url, **options}, headers=request_headers)

    async def send(
        self, connection: int, data: bytes | str, kind: str = "text/plain", status: int = 200, **headers: str
    ) -> Any:
        return await self.call(
            "POST",
            f"/v1/connections/{connection}/messages",
            status,
            data=as_file(data),
            headers={"Content-Type": kind, **headers},
        )

    async def record(self, connection: int) -> dict[str, Any]:
        return await self.get(f"/v1/connections/{connection}")

    async def events(
        self, connection: int, until: str | None = None, count: int = 0, timeout_s: float = 60.0
    ) -> list[dict[str, Any]]:
        """Return a connection's events from its start, once one of kind `until` is there, or `count` of them."""

        async def look() -> list[dict[str, Any]] | None:
            found: list[dict[str, Any]] = []
            after = "start"
            while True:
                page = await self.get(f"/v1/connections/{connection}/events?after={after}&limit=1000")
                found += page["events"]
                if not page["events"]:
                    break
                after = page["next"]
            done = any(event["kind"] == until for event in found) if until else len(found) >= count
            return found if done else None

        return await wait_for(look, timeout_s, f"{until or count} of connection {connection}")

    async def stream(self, path: str, **kwargs: Any) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of an SSE stream."""
        headers = {"Accept": "text/event-stream", **kwargs.pop("headers", {})}
        async with self.client.get(
            path, headers=headers, timeout=aiohttp.ClientTimeout(total=None), **kwargs
        ) as response:
            assert response.status == 200, await response.text()
            rest = b""
            async for chunk in response.content.iter_any():
                *blocks, rest = (rest + chunk).split(b"\n\n")
                for block in blocks:
                    for line in block.split(b"\n"):
                        if line.startswith(b"data: "):
                            yield json.loads(line[6:])


def as_file(data: Any) -> Any:
    """Return what aiohttp sends without a warning, also where it is large."""
    return io.BytesIO(data.encode() if isinstance(data, str) else data) if isinstance(data, str | bytes) else data


StartService = Callable[..., Awaitable[RunningService]]


def rounds(short: int, long: int, name: str = "rounds") -> pytest.MarkDecorator:
    """Give a test its number of `rounds` (or of what `name` says): few in `make test`, many in `make test-long`."""
    return pytest.mark.parametrize(name, [short, pytest.param(long, marks=pytest.mark.long)])


@pytest.fixture
async def start_service(request: pytest.FixtureRequest) -> AsyncIterator[StartService]:
    """Start services; all are stopped, and their workers gone, at the end."""
    started: list[RunningService] = []
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:

        async def start(*options: str, name: str = "state", **kwargs: Any) -> RunningService:
            service = RunningService(Path(folder) / name, *options, **kwargs)
            started.append(service)
            return await service.start()

        yield start
        for service in started:
            await service.clean_up()
        if getattr(request.node, "failed", False):
            for service in started:
                service.print_logs()


def pytest_collection_finish() -> None:
    """What is there before the first test is never garbage: looking for it after each test would cost."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _left_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Have what a test leaves unclosed told in that test, not in the one that happens to run when it is collected."""
    yield
    if inspect.iscoroutinefunction(request.function) or "module_service" in request.fixturenames:
        gc.collect()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What the tests of a file keep for good (trees of all our sources) is no garbage either: a second for each test behind them."""
    if nextitem is not None and nextitem.path != item.path:
        gc.collect()
        gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and report.failed:
        item.failed = True


@pytest.fixture(scope="module")
def module_service(request: pytest.FixtureRequest) -> Iterator[RunningService]:
    """One service for a whole module: for tables of many rows, none of which may harm it. See `shared`."""
    options, env = getattr(request.module, "SERVICE", ((), {}))
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        service = RunningService(Path(folder) / "state", *options, env=env)

        async def start() -> None:
            await service.start()
            await service.client.close()

        asyncio.run(start())
        yield service
        assert service.process.poll() is None, "the service has survived all of it"
        asyncio.run(service.clean_up())


@pytest.fixture
async def shared(request: pytest.FixtureRequest, module_service: RunningService) -> AsyncIterator[RunningService]:
    """The module's service, with a client for this test."""
    module_service.open_client()
    yield module_service
    await module_service.client.close()
    if getattr(request.node, "failed", False):
        module_service.print_logs()


@pytest.fixture
async def worker(shared: RunningService) -> AsyncIterator[str]:
    """The name of a worker of `shared` that no other test uses; it is gone at the end."""
    name = f"w{next(_names)}"
    yield name
    await shared.call("DELETE", f"/v1/workers/{name}", None)


_names = itertools.count(1)


@pytest.fixture
async def service(start_service: StartService) -> RunningService:
    """One service with the defaults."""
    return await start_service()


@pytest.fixture
async def echo() -> AsyncIterator[EchoServer]:
    async with EchoServer() as server:
        yield server
