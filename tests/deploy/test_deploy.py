"""What is shipped for operators, checked by the tools of those who read it. The image build itself is not tested here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, RunningService

DEPLOY = ROOT / "deploy"
BINARIES = Path(sys.executable).parent
PROMTOOL = shutil.which("promtool") or shutil.which(str(BINARIES.parent / "tools" / "usr" / "bin" / "promtool"))
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")

# Both are installed by `make test` where it may; where it may not, there is nothing to check with.
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (apt install prometheus)")
needs_systemd = pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="no systemd-analyze here (apt install systemd)")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@needs_promtool
def test_the_alert_rules_are_valid() -> None:
    checked = run(str(PROMTOOL), "check", "rules", str(DEPLOY / "prometheus" / "alerts.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = run(str(PROMTOOL), "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def used_metrics(text: str) -> set[str]:
    return set(re.findall(r"\bmooring_\w+", text))


async def test_alerts_and_dashboard_ask_for_metrics_that_exist(shared: RunningService) -> None:
    await shared.call("PUT", "/v1/workers/main", None)
    async with shared.client.get("/metrics") as response:
        served = {
            line.split("{")[0].split(" ")[0]
            for line in (await response.text()).splitlines()
            if not line.startswith("#")
        }
        families = {line.split(" ")[2] for line in (await response.text()).splitlines() if line.startswith("# TYPE")}
    known = served | families | {f"{name}_total" for name in families} | {f"{name}_bucket" for name in families}
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    expressions += [rule["expr"] for rule in rules]
    for expression in expressions:
        assert used_metrics(expression) <= known, expression


def test_every_alert_is_in_the_runbook() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    runbook = (DEPLOY / "README.md").read_text()
    for rule in rules:
        assert f"**{rule['alert']}**" in runbook


@needs_systemd
def test_the_units_verify_and_are_hardened(tmp_path: Path) -> None:
    for name in ("mooring.service", "mooring.socket"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/mooring/bin/mooring", "/bin/true"))
    verified = run(str(SYSTEMD_ANALYZE), "verify", str(tmp_path / "mooring.service"), str(tmp_path / "mooring.socket"))
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr == ""
    scored = run(str(SYSTEMD_ANALYZE), "security", "--offline=true", str(tmp_path / "mooring.service"))
    match = re.search(r"Overall exposure level for mooring\.service: ([\d.]+)", scored.stdout)
    assert match is not None, scored.stdout
    assert float(match[1]) < 3


def test_the_dockerfile_passes_its_linter() -> None:
    checked = run(str(BINARIES / "hadolint"), str(DEPLOY / "Dockerfile"))
    assert checked.returncode == 0, checked.stdout


def test_the_manifests_follow_the_kubernetes_schemas() -> None:
    checked = run(str(BINARIES / "kubernetes-validate"), "--strict", str(DEPLOY / "kubernetes" / "mooring.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_compose_is_well_formed_and_names_files_that_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"mooring", "prometheus", "grafana"}
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source
