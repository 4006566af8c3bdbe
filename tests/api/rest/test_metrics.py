"""Metrics: one table of families, to which the dashboard, the alerts and every scrape are held."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from mooring.metrics import SECONDS, Histogram, WorkerMetrics, encode
from mooring_api.rest.metrics import ROWS, Row, Scrape, Seen, family_of, figures_of
from mooring_service.config import Config
from mooring_service.journal.memory import MemoryJournal
from mooring_service.processes.backoff import RestartBudget
from mooring_service.processes.slot import Slot
from mooring_service.service import Service
from tests.conftest import ROOT

SUFFIXES = {"counter": ("", "_total"), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERVED = {row.name + suffix: row for row in ROWS for suffix in SUFFIXES[row.kind]}


def expressions() -> Iterator[str]:
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel["targets"])
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])


@pytest.mark.parametrize("expression", sorted(set(expressions())))
def test_dashboard_and_alerts_ask_for_families_and_labels_that_are_served(expression: str) -> None:
    for name, labels in re.findall(r"\b(mooring_\w+)(?:\{([^}]*)\})?", expression):
        assert name in SERVED, name
        for label in re.findall(r"(\w+)\s*(?:=|!)", labels):
            assert label in {*SERVED[name].labels, "job", "instance"}, f"{name} has no label {label}"


def test_each_family_stands_once_and_names_its_unit() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.name.startswith("mooring_") and row.text.endswith("."), row.name
        assert not row.name.endswith(("_total", "_ms", "_us")), row.name
        if row.kind == "histogram":
            assert row.name.endswith(("_seconds", "_events")), row.name


@pytest.fixture
async def scrape(tmp_path: Path) -> Scrape:
    """One scrape of a service with two workers, of which one was adopted from another version."""
    config = Config()
    made = Scrape(Service(config, tmp_path, MemoryJournal(config.journal)), config)
    ours, other = WorkerMetrics(opens=3), WorkerMetrics(opens=4)
    for metrics, counts in ((ours, len(SECONDS) + 1), (other, len(SECONDS) + 4)):
        histograms = (value for value in msgspec.structs.asdict(metrics).values() if isinstance(value, Histogram))
        for histogram in histograms:
            histogram.counts = [1] * counts
            histogram.sum = 1.5
    for name, metrics in (("ours", ours), ("other", other)):
        slot = Slot(name, RestartBudget(5, 60, 0.1, 1))
        made.workers.append(Seen(slot, figures_of(encode(metrics))))
    return made


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_a_worker_with_other_buckets_fails_no_family_and_is_left_out_of_histograms_alone(
    row: Row, scrape: Scrape
) -> None:
    family = family_of(row, scrape)
    workers = {sample.labels["worker"] for sample in family.samples if "worker" in sample.labels}
    if row.kind == "histogram" and "worker" in row.labels:
        assert workers == {"ours"}
        assert {sample.value for sample in family.samples if sample.labels.get("le") == "+Inf"} == {len(SECONDS) + 1}
    elif row.name == "mooring_opens":
        assert {sample.labels["worker"]: sample.value for sample in family.samples} == {"ours": 3, "other": 4}


def test_figures_that_cannot_be_read_are_none_and_none_yet_are_zero() -> None:
    assert figures_of(b"") == WorkerMetrics()
    assert figures_of(b"\xc1") is None
    assert figures_of(encode(WorkerMetrics(callback=Histogram(counts=[1])))) is not None
