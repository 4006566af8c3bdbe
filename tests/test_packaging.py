"""What is released: wheel and source distribution hold what is committed, and what is pinned is what is needed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email import message_from_bytes
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple

import pytest
from aiohttp import web_protocol, web_response
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.test_architecture import FLOORS, imports, modules, tracked

pytestmark = pytest.mark.timeout(600)  # it is built first

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
BENCH_ALONE = "# for the benchmark's gateways alone"


class Built(NamedTuple):
    wheel: dict[str, bytes]
    source: set[str]

    @property
    def metadata(self) -> Message:
        (data,) = (data for name, data in self.wheel.items() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(data)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The source distribution of what is committed, and the wheel that is made of it."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    for path in tracked():
        copy = tree / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(tree)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    with zipfile.ZipFile(next(out.glob("*.whl"))) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(next(out.glob("*.tar.gz"))) as source:
        return Built(files, {name.partition("/")[2] for name in source.getnames()})


def test_the_wheel_holds_the_three_floors_whole_and_nothing_else(built: Built) -> None:
    committed = {
        str(path.relative_to(ROOT / folder))
        for package, folder in FLOORS.items()
        for path in tracked()
        if path.is_relative_to(ROOT / folder / package)
    }
    assert {name for name in built.wheel if ".dist-info/" not in name} == committed


def test_the_source_distribution_holds_what_is_committed(built: Built) -> None:
    assert {str(path.relative_to(ROOT)) for path in tracked()} - built.source == set()


def test_the_wheel_names_its_licences_and_brings_them(built: Built) -> None:
    assert built.metadata["License-Expression"] == "Apache-2.0 AND MIT"
    named = built.metadata.get_all("License-File") or []
    assert len(named) == 2
    for name in named:
        assert any(file.endswith(f".dist-info/licenses/{name}") for file in built.wheel), name


def test_what_an_index_shows_leads_nowhere_that_is_not_there(built: Built) -> None:
    text = str(built.metadata.get_payload())
    assert "mooring serve" in text
    assert re.findall(r"\]\((?!https?://)", text) == []


def _pins(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def _needed(name: str, *extras: str) -> Iterator[tuple[str, str]]:
    """Yield name and installed version of all that `name[extras]` needs on any of our Pythons, "" when this one has no need."""
    seen: set[tuple[str, str]] = set()
    todo = [(name, extra) for extra in ("", *extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            yield name, ""
            continue
        if name != "mooring":
            yield name, installed.version
        for line in installed.requires or ():
            requirement = Requirement(line)
            marker = requirement.marker
            where = [
                {"python_version": version, "python_full_version": f"{version}.0", "extra": extra}
                for version in PYTHONS
            ]
            if marker is None or any(marker.evaluate(one) for one in where):
                todo += [(canonicalize_name(requirement.name), one) for one in ("", *requirement.extras)]


def test_what_is_needed_is_pinned_as_it_is_installed_and_nothing_else_is() -> None:
    ours, _, bench = (ROOT / "constraints.txt").read_text().partition(BENCH_ALONE)
    needed = dict(_needed("mooring", "dev"))
    assert set(_pins(ours)) == set(needed)
    assert {name: version for name, version in needed.items() if version not in ("", _pins(ours)[name])} == {}
    assert not set(_pins(bench)) & set(_pins(ours))
    assert {"fastapi", "uvicorn"} <= set(_pins(bench)), "the extra `bench` of pyproject.toml"


def test_what_we_import_is_declared() -> None:
    of_an_extra = {("mooring_service.cluster.engine", "nats")}
    tops = {
        top
        for name in modules()
        for top in {one.split(".")[0] for one in imports(name)}
        if (name, top) not in of_an_extra
    }
    foreign = {canonicalize_name(top) for top in tops - set(sys.stdlib_module_names) - set(FLOORS)}
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in distribution("mooring").requires or ()
        if "extra ==" not in line
    }
    assert foreign == declared


def test_the_parts_of_aiohttp_that_it_does_not_promise_are_there() -> None:
    # Why aiohttp has an upper bound: each release may change these.
    assert callable(web_protocol.RequestHandler.handle_error), "rest/gate.py answers bad requests by it"
    assert isinstance(web_response.SERVER_SOFTWARE, str), "rest/app.py says `mooring` there"
    assert callable(HttpResponseParser.feed_data), "wire/answer.py reads what a server answers by it"
    assert callable(BaseProtocol.pause_reading), "wire/answer.py gives the parser one to speak to"
