"""Which tests are quick, how long the long ones may take, and in which order files begin; knows nothing of what a test does."""

from __future__ import annotations

from pathlib import Path

import pytest

NEED_A_PROCESS = {"start_service", "module_service", "three_servers"}
OF_PROCESSES = tuple(
    Path(__file__).parent / place
    for place in (
        "end_to_end", "api/server", "service/journal/test_crash.py", "service/processes/test_forker.py", "workers/wire/test_proxies.py",
        "service/processes/test_worker_process.py", "service/test_window.py", "service/cluster/test_watch.py",
    )
)  # fmt: skip
"""Where services, proxies or processes that are killed are started without a fixture."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `quick` what starts no service, engine or proxy, give the long ones their time, and put all into their order."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if not NEED_A_PROCESS & fixtures and not any(item.path.is_relative_to(place) for place in OF_PROCESSES):
            item.add_marker(pytest.mark.quick)
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(600))
        if item.get_closest_marker("alone"):
            assert "pytest.mark.alone" in item.path.read_text(), f"{item.path}: the Makefile finds it by this word"
    items[:] = in_order(items)


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """Put files whose tests mostly wait (for a node to be missed) evenly among those that start services, and the quick ones behind all.

    So there is work for the processor at any time, and at the end of a run nobody waits for one slow file. Files stay whole.
    """
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    waiting, busy, quick = [], [], []
    for tests in files.values():
        if all(test.get_closest_marker("quick") for test in tests):
            quick.append(tests)
        elif any("three_servers" in getattr(test, "fixturenames", ()) for test in tests):
            waiting.append(tests)
        else:
            busy.append(tests)
    places = [(number / len(group), tests) for group in (waiting, busy) for number, tests in enumerate(group)]
    places.sort(key=lambda place: place[0])
    quick.sort(key=len, reverse=True)
    return [test for _, tests in places for test in tests] + [test for tests in quick for test in tests]
