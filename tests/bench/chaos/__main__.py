"""Chaos under load: `python -m tests.bench.chaos [--case leader …] [--seeds 101 102 …] [--seconds 60] [--dead-after 15]`.

Three real services with real workers on three real engine servers, 240 connections, half of which persist, 3,000 messages a second over all.
Each run ends with the checker. `results/chaos.json` has what became of this call; `results/chaos.md` is a table that was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.chaos.cases import CASES
from tests.bench.chaos.verdict import Verdict, verify
from tests.bench.chaos.world import CONNECTIONS, RATE, World
from tests.bench.gateways import BENCH
from tests.cluster_kit.servers import EngineServers

SEEDS = (101, 102, 103, 104, 105)
COLUMNS = (
    "case",
    "seed",
    "dead_after",
    "unsure",
    "seconds",
    "faults",
    "lost",
    "took_s",
    "events",
    "rate",
    "overlap_s",
    "load",
    "verdict",
)


async def run(
    servers: EngineServers,
    name: str,
    seed: int,
    seconds: float,
    *,
    dead_after: float = 15.0,
    unsure: str = "",
    rate: float = RATE,
    connections: int = CONNECTIONS,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Return what became of one run: `verdict` is "right", or what is wrong.

    `unsure`: of `[cluster]`; "": as the seed says. `keep`: where to put what is left of a wrong run.
    """
    case, chosen = CASES[name], random.Random(seed)
    begun = time.monotonic()
    faults, flow_s = 0, 0.0
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        await asyncio.to_thread(servers.start_all)
        world = World(
            Path(folder), servers, f"{name}-{seed}-{os.getpid()}"[:20], chosen, dead_after=dead_after, max_age=case.max_age,
            unsure=unsure or chosen.choice(["keep", "stop"]), rate=rate, connections=connections,
        )  # fmt: skip
        try:
            async with world.begun() as reader:
                end = time.monotonic() + seconds
                flowing_since = time.monotonic()
                while not faults or (time.monotonic() < end and not case.once):
                    await asyncio.sleep(chosen.uniform(1, 3))
                    faults += 1
                    await case.fault(world)
                    await world.fill()
                await asyncio.sleep(max(0.0, end - time.monotonic()))
                flow_s = time.monotonic() - flowing_since
                found = await verify(world, reader, one_socket=world.unsure == "stop" and not case.freezes)
        except AssertionError as exc:
            found = Verdict([str(exc)[:1_000] or repr(exc)])
        if found.wrong and keep is not None:
            shutil.copytree(
                folder, keep / f"{name}-{seed}", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock")
            )
    return {
        "case": name, "seed": seed, "dead_after": dead_after, "unsure": world.unsure, "seconds": round(time.monotonic() - begun),
        "faults": faults, "lost": found.lost, "took_s": round(found.took_s, 1), "events": found.events,
        "rate": round(world.feed.sent / flow_s) if flow_s else 0, "overlap_s": round(max(world.feed.overlap_s.values(), default=0.0), 2),
        "load": round(os.getloadavg()[0]), "verdict": "; ".join(found.wrong) or ("right, exactly there" if world.exact else "right"),
    }  # fmt: skip


async def run_all(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Run what was asked for, one after the other, on the same servers."""
    found = []
    with tempfile.TemporaryDirectory(prefix="mooring-") as folder:
        servers = EngineServers(Path(folder) / "nats")
        try:
            for name in options.case or CASES:
                for seed in options.seeds:
                    print(f"{name}, seed {seed} …", flush=True)
                    told = await run(
                        servers, name, seed, options.seconds, dead_after=options.dead_after, keep=options.keep
                    )
                    found.append(told)
                    print(f"| {' | '.join(str(told[column]) for column in COLUMNS)} |", flush=True)
        finally:
            servers.stop_all()
    return found


def main() -> None:
    """Run cases, and keep what became of them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run, until the last fault begins")
    parser.add_argument("--dead-after", type=float, default=15.0, help="of [cluster]; the faults last as it says")
    parser.add_argument("--keep", type=Path, help="a folder for what is left of wrong runs")
    found = asyncio.run(run_all(parser.parse_args()))
    path = BENCH / "results" / "chaos.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(found, indent=1))
    raise SystemExit(any(not one["verdict"].startswith("right") for one in found))


if __name__ == "__main__":
    main()
