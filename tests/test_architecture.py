"""The shape of the house, held by a test: imports only go down, leaves stay pure, nothing of one machine is committed."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FLOORS = {"mooring": "workers", "mooring_service": "service", "mooring_api": "api"}
ALLOWED = {"mooring": {"mooring"}, "mooring_service": {"mooring", "mooring_service"}, "mooring_api": set(FLOORS)}

# Pure modules: decisions without I/O. What they may import of the standard library is short.
PURE = {
    "mooring.connection.state",
    "mooring.wire.liveness",
    "mooring.wire.frames",
    "mooring.wire.egress",
    "mooring.wire.proxy",
    "mooring.wire.route",
    "mooring.wire.target",
    "mooring.wire.upgrade",
    "mooring.options",
    "mooring.proxies",
    "mooring.errors",
    "mooring_service.processes.backoff",
    "mooring_service.processes.worker_state",
    "mooring_service.journal.cursor",
    "mooring_service.journal.batch",
    "mooring_api.rest.sse",
}
IMPURE = {"asyncio", "socket", "threading", "subprocess", "os", "ssl", "aiohttp", "uvloop", "apsw", "signal", "time"}
MAX_LINES = 550


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FLOORS.items():
        for path in sorted((ROOT / folder / package).rglob("*.py")):
            yield ".".join(path.relative_to(ROOT / folder).with_suffix("").parts), path


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """Yield (module, only for types) of every import."""
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in typing_only
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield f"{node.module}.{alias.name}", id(node) in typing_only
                yield node.module, id(node) in typing_only


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in names.splitlines() if (ROOT / name).is_file()]


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_only_go_down(name: str, path: Path) -> None:
    floor = name.split(".", maxsplit=1)[0]
    for imported, _ in imports(path):
        top = imported.split(".")[0]
        if top in FLOORS:
            assert top in ALLOWED[floor], f"{name} imports {imported}, which is above it"


def test_inside_a_package_no_module_is_imported_in_a_circle() -> None:
    names = dict(modules())
    graph = {
        name: {
            target for target, typing_only in imports(path) if target in names and not typing_only and target != name
        }
        for name, path in names.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for target in graph[name]:
                if not target.endswith("__init__") and target not in FLOORS:
                    visit(target, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("name", sorted(PURE))
def test_pure_modules_touch_nothing(name: str) -> None:
    path = dict(modules())[name]
    touched = {target.split(".")[0] for target, _ in imports(path)} & IMPURE
    assert not touched, f"{name} imports {touched}"


def test_only_the_journal_knows_sqlite() -> None:
    for name, path in modules():
        if not name.startswith("mooring_service.journal."):
            assert not {"apsw", "sqlite3"} & {target.split(".")[0] for target, _ in imports(path)}, name


def test_the_worker_process_imports_nothing_of_the_service() -> None:
    for name, path in modules():
        if name.startswith("mooring."):
            tops = {target.split(".")[0] for target, _ in imports(path)}
            assert not tops & {"click", "rich", "apsw", "prometheus_client", "structlog"}, name


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_module_fits_in_a_head(name: str, path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{name} has {lines} lines: split it"


def test_only_context_handlers_and_the_test_kit_catch_what_user_code_raises() -> None:
    # BaseException caught elsewhere must be raised again, or belong to the process's own end.
    for name, path in modules():
        if name.startswith("mooring.") and name not in {
            "mooring.usercode.context",
            "mooring.usercode.handlers",
            "mooring.testing",
        }:
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.ExceptHandler)
                    and isinstance(node.type, ast.Name)
                    and node.type.id == "BaseException"
                ):
                    assert any(isinstance(inner, ast.Raise) for inner in ast.walk(node)), f"{name}:{node.lineno}"


def test_nothing_of_one_machine_is_committed() -> None:
    # Spelled in pieces, so that this file passes its own test.
    forbidden = re.compile("|".join(["/ro" + "ot/", "/wo" + "rk/", "pypi" + r"\.org", "files\\.python" + "hosted"]))
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        match = forbidden.search(text)
        assert match is None, f"{path.relative_to(ROOT)}: {match[0] if match else ''}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in tracked():
        if page.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
                if "://" not in target and not target.startswith("mailto:"):
                    assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
