"""``make bench``: our figures beside those of three gateways, in turns; medians, ratios, CPU; a table and JSON."""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench import cluster, hooks, kept, measure, opens, scale, stalls, starts
from tests.bench.gateways import BENCH, Aiohttp, AiohttpBatched, FastApi, Gateway, Mooring, Node, NodeBatched

Row = tuple[str, str, str, str]


class Report:
    """Collects rows of the table, and the raw figures."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.figures: dict[str, Any] = {}

    def add(self, what: str, ours: str, compared: str, reach: str) -> None:
        self.rows.append((what, ours, compared, reach))
        print(f"{what}: {ours} · {compared}", flush=True)

    def table(self) -> str:
        head = ("what", "mooring", "compared", "to reach")
        lines = [head, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        out = [" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
        out.insert(1, "-|-".join("-" * width for width in widths))
        return "\n".join(f"| {line} |" for line in out)


def in_turns(rounds: int, works: dict[str, Callable[[], dict[str, float]]]) -> dict[str, list[dict[str, float]]]:
    """Run all works in turns, so that a slow minute of the machine slows them all."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            found[name].append(work())
    return found


def median(results: list[dict[str, float]], key: str) -> float:
    return statistics.median(result[key] for result in results)


def ratio(ours: list[dict[str, float]], theirs: list[dict[str, float]], key: str = "rate") -> float:
    """The median of the ratios of each turn."""
    return statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))


def thousands(value: float) -> str:
    return f"{value / 1000:,.0f} k/s" if value >= 10_000 else f"{value:,.0f}/s"


def peers(all_of_them: bool) -> list[type[Gateway]]:
    found: list[type[Gateway]] = [Aiohttp]
    if (
        importlib.util.find_spec("fastapi")
        and importlib.util.find_spec("uvicorn")
        and importlib.util.find_spec("websockets")
    ):
        found.append(FastApi)
    else:
        print("without FastAPI: it is not installed (make bench does)")
    if shutil.which("node") and (BENCH / "peers" / "node" / "node_modules" / "ws").exists():
        found.append(Node)
        if all_of_them:
            found.append(NodeBatched)
    else:
        print("without Node: node or its package ws is not there (make bench installs ws where npm is)")
    if all_of_them:
        found.append(AiohttpBatched)
    return found


def events_section(report: Report, quick: bool) -> None:
    count = 100_000 if quick else 400_000
    rounds = 1 if quick else 5
    others = peers(not quick)
    works: dict[str, Callable[[], dict[str, float]]] = {"mooring": lambda: measure.events(Mooring(), count)}
    for peer in others:
        works[peer.name] = lambda peer=peer: measure.events(peer(), count // 2)  # type: ignore[misc]
    works["ten"] = lambda: measure.events(Mooring(), count, connections=10, workers=2)
    works["handler"] = lambda: measure.events(Mooring(), count // 2, handler=True)
    works["power"] = lambda: measure.events(Mooring(env={"MOORING_JOURNAL_LEVEL": "power"}), count)
    results = in_turns(rounds, works)
    report.figures["events"] = results

    def compared(ours: str) -> str:
        return ", ".join(f"{ratio(results[ours], results[peer.name]):.2f} × {peer.name}" for peer in others)

    for ours, what, reach in (
        ("mooring", "events, 1 connection → 1 subscriber", "2.5 × aiohttp, 1.0 × node, ≤ 8 µs"),
        ("ten", "events, 10 connections on 2 workers", "the same"),
        ("handler", "events with a def on_message handler", "1.5 × aiohttp"),
        ("power", "events, journal level power", ""),
    ):
        found = results[ours]
        report.add(
            what, f"{thousands(median(found, 'rate'))}, {median(found, 'cpu_us'):.1f} µs CPU", compared(ours), reach
        )
    for peer in others:
        found = results[peer.name]
        report.add(
            f"  {peer.name} itself", f"{thousands(median(found, 'rate'))}, {median(found, 'cpu_us'):.1f} µs CPU", "", ""
        )


def big_section(report: Report, quick: bool) -> None:
    for size, count in ((64 * 1024, 4_000), (1024 * 1024, 300)):
        if quick:
            count //= 4
        results = in_turns(
            1 if quick else 3,
            {
                "mooring": lambda size=size, count=count: measure.events(Mooring(), count, size=size),  # type: ignore[misc]
                "aiohttp": lambda size=size, count=count: measure.events(Aiohttp(), count, size=size),  # type: ignore[misc]
            },
        )
        ours, theirs = results["mooring"], results["aiohttp"]
        report.figures[f"big {size}"] = results
        mb = median(ours, "rate") * size / 1e6
        report.add(
            f"text messages of {size // 1024} KiB",
            f"{mb:,.0f} MB/s, {median(ours, 'cpu_us') / 1000:.2f} ms CPU",
            f"{ratio(ours, theirs):.2f} × aiohttp, CPU {ratio(ours, theirs, 'cpu_us'):.2f} ×",
            "0.8 ×, CPU 1.2 ×",
        )


def fan_out_section(report: Report, quick: bool) -> None:
    seconds = 2.0 if quick else 5.0
    for rate, reach in ((2_000, "0.5"), (500, "0.7")):
        results = in_turns(
            1 if quick else 3,
            {
                "mooring": lambda rate=rate: measure.fan_out(Mooring(), 50, rate, seconds),  # type: ignore[misc]
                "aiohttp": lambda rate=rate: measure.fan_out(Aiohttp(), 50, rate, seconds),  # type: ignore[misc]
            },
        )
        report.figures[f"fan_out {rate}"] = results
        ours, theirs = results["mooring"], results["aiohttp"]
        report.add(
            f"50 subscribers × {rate:,} messages/s",
            f"{median(ours, 'complete'):.0%} complete, {median(ours, 'behind_s'):.2f} s behind, {median(ours, 'cpu_us'):.2f} µs each, "
            f"p50 {median(ours, 'p50'):.1f} ms, p99 {median(ours, 'p99'):.1f} ms",
            f"{ratio(ours, theirs, 'cpu_s'):.2f} × CPU of aiohttp ({median(theirs, 'behind_s'):.2f} s behind, "
            f"p50 {median(theirs, 'p50'):.1f} ms, p99 {median(theirs, 'p99'):.1f} ms)",
            f"complete, ≤ {reach} × aiohttp's CPU",
        )


def sends_section(report: Report, quick: bool) -> None:
    count = 5_000 if quick else 30_000
    results = in_turns(
        1 if quick else 3,
        {
            "mooring": lambda: measure.sends(Mooring(), count, 32),
            "aiohttp": lambda: measure.sends(Aiohttp(), count, 32),
            "bare": lambda: measure.sends(Aiohttp(), count, 32, bare=True),
            "one": lambda: measure.sends(Mooring(), count // 5, 1),
            "ndjson": lambda: measure.ndjson(Mooring(), count * 5),
        },
    )
    report.figures["sends"] = results
    ours = results["mooring"]
    report.add(
        "REST send, concurrency 32",
        f"{thousands(median(ours, 'rate'))}, p99 {median(ours, 'p99') * 1e3:.1f} ms",
        f"{ratio(ours, results['bare']):.2f} × bare POST, {ratio(ours, results['aiohttp']):.2f} × aiohttp",
        "0.5 × bare, 1.0 × aiohttp",
    )
    report.add(
        "REST send, concurrency 1",
        thousands(median(results["one"], "rate")),
        f"p50 {median(results['one'], 'p50') * 1e3:.2f} ms",
        "",
    )
    report.add(
        "ndjson stream of sends",
        f"{thousands(median(results['ndjson'], 'rate'))}, {median(results['ndjson'], 'cpu_us'):.1f} µs CPU",
        f"{ratio(results['ndjson'], results['one']):.1f} × single sends",
        "10 × single sends at concurrency 1",
    )


def latency_section(report: Report, quick: bool) -> None:
    count = 500 if quick else 3_000
    results = in_turns(1 if quick else 3, {"mooring": lambda: measure.latency(Mooring(), count)})["mooring"]
    report.figures["latency"] = results
    p50, p99, bare = median(results, "p50"), median(results, "p99"), median(results, "bare_p50")
    report.add(
        "latency REST → echo → SSE",
        f"p50 {p50 * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms",
        f"p50 {p50 / bare:.2f} × bare POST + bare echo ({bare * 1e3:.2f} ms), p99 {p99 / p50:.1f} × p50",
        "2 ×, 5 ×",
    )


def idle_section(report: Report, quick: bool) -> None:
    for count in (1_000,) if quick else (2_000, 10_000):
        found = measure.idle(count, 4, 5 if quick else 31)
        report.figures[f"idle_{count}"] = found
        report.add(
            f"{count:,} idle connections on 4 workers",
            f"{found['bytes_each'] / 1024:.1f} KiB each, {found['cpu_percent']:.1f} % of a core",
            f"opened at {found['open_rate']:.0f}/s",
            "24 KiB, 5 %",
        )


def rest_section(report: Report, quick: bool) -> None:
    events = 200_000 if quick else 1_000_000
    kept = measure.journal(events)
    report.figures["journal"] = kept
    report.add(
        f"journal at {events:,} events",
        thousands(kept["last_rate"]),
        f"{kept['last_rate'] / kept['first_rate']:.2f} × the rate when empty; replay {thousands(kept['replay_rate'])}",
        "0.9 ×; 150 k/s",
    )


def sparse_section(report: Report, quick: bool) -> None:
    count, seconds, rounds = (400, 3.0, 1) if quick else (2_000, 10.0, 3)
    peers: dict[str, type[Gateway]] = {"aiohttp": Aiohttp}
    if shutil.which("node") and (BENCH / "peers" / "node" / "node_modules" / "ws").exists():
        peers["node"] = Node

    def compared(what: str, ours: Callable[[], dict[str, float]], **theirs: Any) -> None:
        works = {"mooring": ours}
        for name, peer in peers.items():
            works[name] = lambda peer=peer: measure.sparse(peer(), count, seconds=seconds, **theirs)  # type: ignore[misc]
        found = in_turns(rounds, works)
        report.figures[f"sparse {what}"] = found
        mine = found["mooring"]
        versus = ", ".join(
            f"{ratio(mine, found[name], 'cpu_us'):.2f} × CPU and {ratio(mine, found[name], 'p99'):.1f} × p99 of {name}"
            f" ({median(found[name], 'cpu_us'):.0f} µs, {median(found[name], 'p99'):.1f} ms)"
            for name in peers
        )
        report.add(
            f"{what}, {count:,} connections",
            f"{median(mine, 'cpu_us'):.0f} µs CPU (service {median(mine, 'service_us'):.0f}), p50 {median(mine, 'p50'):.1f} ms, "
            f"p99 {median(mine, 'p99'):.1f} ms, {median(mine, 'written_bytes') / 1024:.1f} KiB written",
            versus,
            "",
        )

    for rate, workers in ((1_000, 2), (1_000, 4), (5_000, 2)):
        compared(
            f"{rate:,} scattered messages/s, {workers} workers",
            lambda rate=rate, workers=workers: measure.sparse(Mooring(), count, rate, seconds, workers=workers),  # type: ignore[misc]
            rate=rate,
        )
    compared(
        "1,000 scattered messages/s with a def on_message",
        lambda: measure.sparse(Mooring(), count, 1_000, seconds, handler=True),
        rate=1_000,
    )
    compared(
        "1,000 scattered messages/s, 20 narrow subscribers beside",
        lambda: measure.sparse(Mooring(), count, 1_000, seconds, narrow=20),
        rate=1_000,
        narrow=20,
    )
    compared(
        "all connections at once, each second",
        lambda: measure.sparse(Mooring(), count, 0, seconds, wide=True),
        rate=0,
        wide=True,
    )
    if shutil.which("strace"):
        works = {
            "mooring": lambda: measure.sparse(Mooring(), count, 1_000, seconds, trace=True),
            "aiohttp": lambda: measure.sparse(Aiohttp(), count, 1_000, seconds, trace=True),
        }
        found = in_turns(1, works)
        report.figures["sparse calls"] = found
        report.add(
            "  system calls per scattered message",
            f"{median(found['mooring'], 'calls'):.1f}",
            f"{median(found['aiohttp'], 'calls'):.1f} of aiohttp",
            "",
        )


SECTIONS: dict[str, Callable[[Report, bool], None]] = {
    "sparse": sparse_section,
    "events": events_section,
    "big": big_section,
    "fan-out": fan_out_section,
    "sends": sends_section,
    "latency": latency_section,
    "idle": idle_section,
    "kept": kept.section,
    "hooks": hooks.section,
    "opens": opens.section,
    "rest": rest_section,
    "starts": starts.section,
    "reboot": scale.reboot_section,
    "stalls": stalls.section,
    "many": scale.many_section,
    "cluster": cluster.section,
    **{
        f"cluster-{part}": lambda report, quick, part=part: cluster.section(report, quick, [part])  # type: ignore[misc]
        for part in cluster.PARTS
    },
}

ON_REQUEST = {
    "reboot", "stalls", "many",  # minutes each, and most of the machine's descriptors
    *(f"cluster-{part}" for part in cluster.PARTS),
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute; one turn, smaller counts")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="one section; repeatable")
    parser.add_argument("--json", type=Path, default=BENCH / "results" / "last.json")
    options = parser.parse_args()
    report = Report()
    begin = time.monotonic()
    for name, section in SECTIONS.items():
        if name in options.only if options.only else name not in ON_REQUEST:
            section(report, options.quick)
    print(f"\n{report.table()}\n")
    print(f"{time.monotonic() - begin:.0f} s, Python {platform.python_version()}, {platform.machine()}")
    if shutil.which("node"):
        print("Node", subprocess.run(["node", "--version"], capture_output=True, text=True, check=False).stdout.strip())
    options.json.parent.mkdir(exist_ok=True)
    options.json.write_text(json.dumps(report.figures, indent=1))
    print(
        f"figures in {options.json.relative_to(Path.cwd()) if options.json.is_relative_to(Path.cwd()) else options.json}"
    )


if __name__ == "__main__":
    sys.exit(main())
