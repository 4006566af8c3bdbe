"""The shape of the house, held by a test: the rooms of `service/DESIGN.md`, what each may import, and how long a file may be.

The tables of that page are read here, so neither can say what the other does not. An import that is only for types counts
as one. What stands in `BEING_MENDED` is wrong today and somebody is at it; it fails as soon as it is no longer wrong.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.timers import PLAIN, plain_timers

FLOORS = {"mooring": "workers", "mooring_service": "service", "mooring_api": "api"}
MAX_LINES = 400
MAX_CLASS_LINES = 250
EXPORTS = {"mooring", "mooring_api.client"}  # packages that re-export for those who use us; all others are a docstring

# What a pure file imports nothing of: clocks, and whatever reads, writes, waits or starts something.
CLOCK_OR_IO = {
    "aiohttp", "apsw", "asyncio", "concurrent", "datetime", "fcntl", "http.client", "io", "logging", "mooring.events.now_us",
    "multiprocessing", "os", "pathlib", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "subprocess",
    "sys", "tempfile", "threading", "time", "uvloop",
}  # fmt: skip
IN_MEMORY = {"io", "io.BytesIO"}  # together they are a reader of lines, and no file

# (check, file or class or module) → since when, and who mends it how. The list is to be empty.
BEING_MENDED: dict[tuple[str, str], str] = {}


class Room(NamedTuple):
    """One row of a table. `name` is a module; `imports` are modules and packages with all that is in them."""

    name: str
    folder: bool
    imports: frozenset[str]
    pure: frozenset[str]


@cache
def modules() -> dict[str, Path]:
    """Return every module of the three floors; a package is its `__init__.py`."""
    found = {}
    for package, folder in FLOORS.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT / folder).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


@cache
def rooms() -> dict[str, Room]:
    """Return the rows of the tables in `service/DESIGN.md`, in their order: from the bottom up."""
    text = (ROOT / "service" / "DESIGN.md").read_text()
    found: dict[str, Room] = {}
    leaves: dict[str, list[str]] = {}
    for package, folder in FLOORS.items():
        table = text.split(f"### {folder}/{package}\n", 1)[1].split("\n#", 1)[0]
        leaves[package] = []
        for row in re.findall(r"^\| `.*\|$", table, re.M):
            name, _, imports, pure = (cell.strip().strip("`") for cell in row.strip("|").split("|"))
            is_folder = name.endswith("/")
            module = package if name == "__init__" else f"{package}.{name.rstrip('/')}"
            if not is_folder and all(not room.folder for room in found.values() if room.name.startswith(f"{package}.")):
                leaves[package].append(module)
            allowed = {module} if is_folder else set()
            for part in filter(None, imports.split(";")):
                floor, colon, names = part.rpartition(":")
                floor = floor.strip() if colon else package
                for one in names.split():
                    if one == "leaves":
                        allowed |= set(leaves[floor]) - {module}
                    else:
                        target = f"{floor}.{one.replace('/', '.')}"
                        below = {room.name for room in found.values()}
                        assert target in below or target.rpartition(".")[0] in below, f"{module}: {one} is not below it"
                        allowed.add(target)
            inside = {f"{module}.{one}" if is_folder else f"{package}.{one}" for one in pure.split()}
            found[module] = Room(module, is_folder, frozenset(allowed), frozenset(inside))
    return found


def room_of(module: str) -> Room:
    """Return the room in which a module stands."""
    parts = module.split(".")
    return rooms()[parts[0] if len(parts) == 1 else ".".join(parts[:2])]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


@cache
def imports(module: str) -> frozenset[str]:
    """Return what a module imports, for types alone or not: of ours the module, of others module and name."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, (
                f"{module}:{node.lineno}: an import names the file that it comes from"
            )
            for alias in node.names:
                assert alias.name != "*", f"{module}:{node.lineno}: an import names what it takes"
                full = f"{node.module}.{alias.name}"
                found |= {full} if full in modules() else {node.module, full}
    return frozenset(found)


def ours(module: str) -> set[str]:
    return {target for target in imports(module) if target in modules()}


def holds(check: str, name: str, wrong: str) -> None:
    """Fail with what is wrong, if anything is; what is being mended must be wrong still."""
    if (check, name) in BEING_MENDED:
        assert wrong, f"{name} is mended: take its line ({check}) out of BEING_MENDED"
    else:
        assert not wrong, wrong


@cache
def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


each_module = pytest.mark.parametrize("module", modules())


def test_every_file_and_folder_stands_in_the_table_of_rooms() -> None:
    for package, folder in FLOORS.items():
        for entry in (ROOT / folder / package).iterdir():
            if entry.is_dir() and entry.name != "__pycache__":
                room = rooms().get(f"{package}.{entry.name}")
                assert room is not None and room.folder, f"{entry.relative_to(ROOT)}/ is a room that no line names"
                inner = [path for path in entry.iterdir() if path.is_dir() and list(path.rglob("*.py"))]
                assert not inner, f"{inner[0].relative_to(ROOT)}: a room has no rooms"
            elif entry.suffix == ".py":
                name = package if entry.stem == "__init__" else f"{package}.{entry.stem}"
                assert name in rooms() and not rooms()[name].folder, f"{entry.relative_to(ROOT)} stands in no line"


@pytest.mark.parametrize("name", rooms())
def test_every_line_of_the_table_stands_for_something(name: str) -> None:
    package, _, rest = name.partition(".")
    folder = ROOT / FLOORS[package] / package / rest
    there = folder.is_dir() if rooms()[name].folder else name in modules()
    holds("row", name, "" if there else f"{name} stands in the table and is not there")
    for target in rooms()[name].imports:
        assert target in modules() or target in rooms(), f"{name} may import {target}, which is not there"


@each_module
def test_a_room_imports_only_what_its_line_names(module: str) -> None:
    allowed = room_of(module).imports
    above = [one for one in sorted(ours(module)) if not any(f"{one}.".startswith(f"{name}.") for name in allowed)]
    holds("imports", module, f"{module} imports {', '.join(above)}" if above else "")


def _packages_run_by(module: str, target: str) -> Iterator[str]:
    """Yield the packages whose `__init__` an import runs first; those round the importer itself run already."""
    parts = target.split(".")
    for size in range(1, len(parts)):
        package = ".".join(parts[:size])
        if module != package and not module.startswith(f"{package}."):
            yield package


@pytest.mark.parametrize("package", FLOORS)
def test_nothing_is_imported_in_a_circle(package: str) -> None:
    inside = [name for name in modules() if name.split(".")[0] == package]
    graph = {
        name: (ours(name) | {one for target in ours(name) for one in _packages_run_by(name, target)}) & set(inside)
        for name in inside
    }
    done: set[str] = set()

    def circle(name: str, trail: tuple[str, ...]) -> str:
        if name in trail:
            return "a circle: " + " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(graph[name]):
                if found := circle(target, (*trail, name)):
                    return found
            done.add(name)
        return ""

    holds("circle", package, next(filter(None, (circle(name, ()) for name in inside)), ""))


@pytest.mark.parametrize("module", sorted(name for room in rooms().values() for name in room.pure if name in modules()))
def test_a_pure_file_touches_neither_clock_nor_io(module: str) -> None:
    found = imports(module)
    found -= IN_MEMORY if found >= IN_MEMORY else set()
    touched = {target for target in found if target in CLOCK_OR_IO or target.split(".")[0] in CLOCK_OR_IO}
    holds("pure", module, f"{module} imports {', '.join(sorted(touched))}" if touched else "")


def test_only_the_journal_knows_sqlite() -> None:
    for name in modules():
        if not name.startswith("mooring_service.journal."):
            assert not {"apsw", "sqlite3"} & {target.split(".")[0] for target in imports(name)}, name


def test_the_worker_process_imports_nothing_of_the_service() -> None:
    for name in modules():
        if name.split(".")[0] == "mooring":
            tops = {target.split(".")[0] for target in imports(name)}
            assert not tops & {"click", "rich", "apsw", "prometheus_client", "structlog"}, name


@each_module
def test_a_module_fits_in_a_head(module: str) -> None:
    count = len(modules()[module].read_text().splitlines())
    holds("lines", module, f"{module} has {count} lines: split it" if count > MAX_LINES else "")


@pytest.mark.parametrize("name", [f"{module}.{node.name}" for module in modules() for node in tree(module).body if isinstance(node, ast.ClassDef)])  # fmt: skip
def test_a_class_has_one_idea(name: str) -> None:
    module, _, class_name = name.rpartition(".")
    (node,) = (node for node in tree(module).body if isinstance(node, ast.ClassDef) and node.name == class_name)
    count = (node.end_lineno or node.lineno) - node.lineno + 1
    holds("class", name, f"{name} has {count} lines: part it" if count > MAX_CLASS_LINES else "")


@pytest.mark.parametrize("path", [path for path in tracked() if path.suffix == ".py" and path.is_relative_to(ROOT / "tests")], ids=lambda path: str(path.relative_to(ROOT)))  # fmt: skip
def test_a_test_module_fits_in_a_head(path: Path) -> None:
    name, count = str(path.relative_to(ROOT)), len(path.read_text().splitlines())
    holds("lines", name, f"{name} has {count} lines: part it" if count > MAX_LINES else "")


def test_what_is_being_mended_is_there() -> None:
    classes = {
        f"{module}.{node.name}" for module in modules() for node in tree(module).body if isinstance(node, ast.ClassDef)
    }
    for check, name in BEING_MENDED:
        assert name in modules() or name in classes or check == "row" or (ROOT / name).is_file(), (
            f"{name} is gone: take it out of BEING_MENDED"
        )


RULED = re.compile(r"^\s*#\s*[-=_*#]{4,}", re.M)


@each_module
def test_no_file_needs_ruled_lines_between_its_parts(module: str) -> None:
    holds("ruled", module, f"{module} has ruled lines: part it" if RULED.search(modules()[module].read_text()) else "")


def test_the_tests_need_none_either() -> None:
    for path in tracked():
        if path.suffix == ".py" and path.is_relative_to(ROOT / "tests"):
            assert not RULED.search(path.read_text()), path.relative_to(ROOT)


@pytest.mark.parametrize("module", [name for name, path in modules().items() if path.name == "__init__.py"])
def test_the_init_file_of_a_room_is_one_docstring(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"
    assert module in EXPORTS or len(tree(module).body) == 1, f"{module} exports something"


@each_module
def test_a_module_says_what_it_owns(module: str) -> None:
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"


def test_only_the_context_with_its_thread_handlers_and_the_test_kit_catch_what_user_code_raises() -> None:
    # BaseException caught elsewhere must be raised again, or belong to the process's own end.
    for name in modules():
        if name.split(".")[0] == "mooring" and name not in {
            "mooring.usercode.asked_code",
            "mooring.usercode.context",
            "mooring.usercode.handlers",
            "mooring.usercode.thread",
            "mooring.testing",
        }:
            for node in ast.walk(tree(name)):
                if (
                    isinstance(node, ast.ExceptHandler)
                    and isinstance(node.type, ast.Name)
                    and node.type.id == "BaseException"
                ):
                    assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"{name}:{node.lineno}"


def test_nothing_of_one_machine_is_committed() -> None:
    # Spelled in pieces, so that this file passes its own test.
    forbidden = re.compile(
        "|".join(
            [
                "/ro" + "ot/",
                "/wo" + "rk/",
                "/tmp" + "/wt",
                "pypi" + r"\.org",
                r"files\.python" + "hosted",
                r"registry\.np" + "mjs",
                r"deb\.deb" + "ian",
            ]
        )
    )
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        match = forbidden.search(text)
        assert match is None, f"{path.relative_to(ROOT)}: {match[0] if match else ''}"


FILE_NAME = re.compile(r"`([\w./-]+\.(?:py|md|toml|html|js))`")
MODULE_NAME = re.compile(r"`(mooring(?:_service|_api)?(?:\.\w+)+)`")
OF_THE_USER = {"mooring.toml"}  # whoever runs mooring has it


def _is_there(name: str, files: list[str]) -> bool:
    if name in OF_THE_USER or any(f"/{file}".endswith(f"/{name}") for file in files):
        return True
    module, _, attribute = name.rpartition(".")
    return name in modules() or (
        module in modules() and re.search(rf"\b{attribute}\b", modules()[module].read_text()) is not None
    )


@pytest.mark.parametrize("path", [path for path in tracked() if path.suffix == ".md" or path in modules().values()], ids=lambda path: str(path.relative_to(ROOT)))  # fmt: skip
def test_files_and_modules_that_pages_and_docstrings_name_are_there(path: Path) -> None:
    files = [str(file.relative_to(ROOT)) for file in tracked()]
    text = path.read_text()
    gone = [name for name in FILE_NAME.findall(text) + MODULE_NAME.findall(text) if not _is_there(name, files)]
    where = str(path.relative_to(ROOT))
    holds("named", where, f"{where} names {', '.join(gone)}" if gone else "")


def test_links_between_pages_lead_somewhere() -> None:
    for page in tracked():
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
                if "://" not in target and not target.startswith("mailto:"):
                    assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"


def test_who_judges_by_the_clock_reads_first_and_each_other_timer_has_its_reason() -> None:
    found = plain_timers((module, tree(module)) for module in modules())
    unknown = [found[where] for where in sorted(found.keys() - PLAIN.keys())]
    assert not unknown, f"use `mooring.deadline`, or say in tests/timers.py why nobody is judged: {unknown}"
    assert not sorted(PLAIN.keys() - found.keys()), "these timers are gone: take their lines out of tests/timers.py"


def test_no_handle_is_asked_when_it_is_due() -> None:
    """uvloop's `call_at` and `call_later` return a handle without `when` for what is due within half a millisecond."""
    asked = [
        f"{module}:{node.lineno}"
        for module in modules()
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr == "TimerHandle"
    ]
    assert not asked, f"an asyncio.Handle, as the types then say too; remember the time beside it: {asked}"
