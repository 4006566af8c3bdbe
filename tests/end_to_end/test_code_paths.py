"""Where workers take code from: where the configuration says, and from nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import StartService
from tests.servers import EchoServer

MOORING = str(Path(sys.executable).parent / "mooring")
TRAPS = ("mooring", "msgspec", "uvloop", "json", "logging", "asyncio", "sitecustomize")


def make_trap(folder: Path) -> Path:
    """Make files that shadow modules, if they are imported; return the file that tells it."""
    told = folder / "told"
    for name in TRAPS:
        (folder / f"{name}.py").write_text(f"open({str(told)!r}, 'a').write({name!r})\nraise SystemExit(0)\n")
    return told


async def test_files_of_the_folder_that_the_service_was_started_in_are_never_run(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    told = make_trap(tmp_path)
    service = await start_service(program=[MOORING], cwd=tmp_path)
    assert (await service.open(echo.url))["status"] == "Connected"
    assert not told.exists(), told.read_text()


async def test_app_dir_and_pythonpath_are_where_code_comes_from(
    start_service: StartService, echo: EchoServer, tmp_path: Path
) -> None:
    for folder in ("app", "path", "here"):
        (tmp_path / folder).mkdir()
    (tmp_path / "app" / "one.py").write_text(
        "import beside, both\ndef where(): return [beside.__file__, both.__file__]\n"
    )
    (tmp_path / "app" / "beside.py").touch()
    for folder in ("app", "path", "here"):
        (tmp_path / folder / "both.py").write_text("def where(): return [__file__]\n")
    (tmp_path / "path" / "two.py").write_text("def where(): return [__file__]\n")
    (tmp_path / "here" / "three.py").write_text("def where(): return [__file__]\n")
    options = [f"--function={name}={name}:where" for name in ("one", "two", "three")]
    options += ["--app-dir", "../app"]
    env = {"PYTHONPATH": str(tmp_path / "path")}
    service = await start_service(*options, program=[MOORING], cwd=tmp_path / "here", env=env)

    async def where(name: str, status: int = 200) -> list[str]:
        answer = await service.call("POST", "/v1/workers/main/calls", status, json={"function": name})
        return [str(Path(found).relative_to(tmp_path)) for found in answer["result"]] if status == 200 else []

    assert await where("one") == ["app/beside.py", "app/both.py"]
    assert await where("two") == ["path/two.py"]
    await where("three", 422)
    checked = subprocess.run(
        [MOORING, "check", "--state-dir", str(service.state_dir), "--listen", "127.0.0.1:0", *options],
        cwd=tmp_path / "here", env={**os.environ, **env}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    marks = {line.split()[1]: line.split()[0] for line in checked.stdout.splitlines()}
    assert (marks["functions.one"], marks["functions.two"], marks["functions.three:"]) == ("ok", "ok", "no")


@pytest.mark.parametrize("program", [[MOORING], [sys.executable, "-m", "mooring_api"]], ids=["script", "module"])
@pytest.mark.parametrize("where", ["feeds.py", "feeds/__init__.py"])
def test_check_says_no_to_code_beside_the_configuration_as_the_worker_does_and_what_to_add(
    tmp_path: Path, program: list[str], where: str
) -> None:
    (tmp_path / where).parent.mkdir(exist_ok=True)
    (tmp_path / where).write_text("class Feed: ...\n")
    (tmp_path / "mooring.toml").write_text('[handlers]\nfeed = "feeds:Feed"\n')

    def check(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, "check", "--state-dir", str(tmp_path / "state"), "--listen", "127.0.0.1:0", *options],
            cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip

    without = check()
    assert without.returncode == 1
    assert f"No module named 'feeds'; it is in {tmp_path}: add --app-dir {tmp_path}" in without.stdout
    assert check("--app-dir", ".").returncode == 0
    assert check("--config", "mooring.toml", "--app-dir", str(tmp_path)).returncode == 0
