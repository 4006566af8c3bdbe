"""What is shipped for operators, checked by the tools of those who read it. The image build itself is not tested here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
import yaml

from mooring_api.rest.cluster_metrics import CLUSTER_ROWS
from mooring_api.rest.metrics import ROWS
from mooring_service.cluster_config import ClusterConfig
from tests.cluster_kit.servers import PROGRAM
from tests.conftest import ROOT, RunningService

DEPLOY = ROOT / "deploy"
BINARIES = Path(sys.executable).parent
PROMTOOL = shutil.which("promtool") or shutil.which(str(BINARIES.parent / "tools" / "usr" / "bin" / "promtool"))
SYSTEMD_ANALYZE = shutil.which("systemd-analyze")

# Both are installed by `make test` where it may; where it may not, there is nothing to check with.
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here (apt install prometheus)")
needs_systemd = pytest.mark.skipif(SYSTEMD_ANALYZE is None, reason="no systemd-analyze here (apt install systemd)")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


@needs_promtool
def test_the_alert_rules_are_valid() -> None:
    checked = run(str(PROMTOOL), "check", "rules", str(DEPLOY / "prometheus" / "alerts.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    checked = run(str(PROMTOOL), "check", "config", "--syntax-only", str(DEPLOY / "prometheus" / "prometheus.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_promtool
def test_each_alert_fires_on_what_it_is_for_and_on_nothing_less(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "prometheus" / "alerts.yml", tmp_path)
    (tmp_path / "tests.yml").write_text((ROOT / "tests" / "deploy" / "alerts.test.yml").read_text())
    checked = run(str(PROMTOOL), "test", "rules", str(tmp_path / "tests.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def dashboard_expressions() -> list[str]:
    dashboard = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{at}", "expr": expression} for at, expression in enumerate(dashboard_expressions())]
    (tmp_path / "panels.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    checked = run(str(PROMTOOL), "check", "rules", str(tmp_path / "panels.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{len(rules)} rules found" in checked.stdout


def used_metrics(text: str) -> set[str]:
    return set(re.findall(r"\b(?:mooring|process)_\w+", text))


def alert_expressions() -> list[str]:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    return [rule["expr"] for rule in rules]


def test_alerts_and_dashboard_ask_for_labels_that_their_metrics_have() -> None:
    labels = {row.name: {"instance", "job", *row.labels, *(["le"] if row.kind == "histogram" else [])} for row in ROWS}
    for expression in dashboard_expressions() + alert_expressions():
        named = {
            re.sub(r"_(total|bucket)$", "", name): pairs
            for name, pairs in re.findall(r"\b(mooring_\w+)(?:\{([^}]*)\})?", expression)
        }
        for name, pairs in named.items():
            assert set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", pairs)) <= labels[name], expression
        asked = {label.strip() for some in re.findall(r"\bby \(([^)]*)\)", expression) for label in some.split(",")}
        assert asked <= set[str]().union(*(labels[name] for name in named)), expression


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
    for expression in dashboard_expressions() + alert_expressions():
        assert used_metrics(expression) <= known, expression


def test_every_metric_of_a_node_is_in_the_runbook_and_what_operators_need_of_a_cluster_is_served() -> None:
    served = {row.name.removeprefix("mooring_cluster_") + "_total" * (row.kind == "counter") for row in CLUSTER_ROWS}
    runbook = (DEPLOY / "CLUSTER.md").read_text()
    told = {
        name.removeprefix("mooring_cluster").removeprefix("_")
        for line in runbook[runbook.index("## Metrics") :].splitlines()
        for name in re.findall(r"`((?:mooring_cluster)?_[a-z_]+)", line.split("|")[1] if line.startswith("| `") else "")
    }
    assert told == served
    operators = (
        "nodes engine_up ack_seconds last_ack_age_seconds unreplicated_events unreplicated_bytes unreplicated_seconds tail_lag_seconds "
        "messages_total bytes_total doubts_total tail_rebuilds_total takeovers_total fenced_total epochs_total divergence "
        "forward_seconds forwards_total"
    )
    assert set(operators.split()) <= served
    shown = " ".join(dashboard_expressions())
    for name in [
        "nodes",
        "ack_seconds",
        "last_ack_age_seconds",
        "unreplicated_bytes",
        "tail_lag_seconds",
        "takeovers_total",
        "fenced_total",
        "forwards_total",
    ]:
        assert f"mooring_cluster_{name}" in shown, name


def test_every_alert_is_in_the_runbook_and_is_tested() -> None:
    rules = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    runbook = (DEPLOY / "README.md").read_text()
    tested = (ROOT / "tests" / "deploy" / "alerts.test.yml").read_text()
    for rule in rules:
        assert f"**{rule['alert']}**" in runbook
        assert f'alertname="{rule["alert"]}", alertstate="firing"' in tested


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


def test_the_unit_names_no_file_that_the_runbook_does_not_make_and_lets_a_new_service_see_old_workers() -> None:
    unit = (DEPLOY / "systemd" / "mooring.service").read_text()
    settings = [line for line in unit.splitlines() if not line.startswith("#")]
    start = next(line for line in settings if line.startswith("ExecStart="))
    runbook = (DEPLOY / "README.md").read_text()
    assert [path for path in re.findall(r"/etc/\S+", start) if path not in runbook] == []
    # Another user namespace after a crash, and a /proc that hides what one may not trace: no worker would be adopted.
    assert not ("PrivateUsers=yes" in settings and "ProtectProc=invisible" in settings)
    assert "KillMode=process" in settings


def test_the_dockerfile_passes_its_linter() -> None:
    checked = run(str(BINARIES / "hadolint"), str(DEPLOY / "Dockerfile"))
    assert checked.returncode == 0, checked.stdout


def test_the_manifests_follow_the_kubernetes_schemas() -> None:
    checked = run(str(BINARIES / "kubernetes-validate"), "--strict", str(DEPLOY / "kubernetes" / "mooring.yaml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_in_kubernetes_the_state_directory_is_below_the_volumes_root_which_is_not_ours() -> None:
    documents = yaml.safe_load_all((DEPLOY / "kubernetes" / "mooring.yaml").read_text())
    pod = next(document for document in documents if document["kind"] == "StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mount = next(mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "state")
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    assert Path(mount) in Path(environment["MOORING_STATE_DIR"]).parents
    # A change on each start would give the token to the group, and then it is refused.
    assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"


def test_compose_is_well_formed_and_names_files_that_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    assert set(compose["services"]) == {"mooring", "prometheus", "history-owner", "grafana"}
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (DEPLOY / source).exists(), source


CLUSTER = DEPLOY / "cluster"


def test_the_cluster_of_compose_has_three_servers_and_three_nodes_that_differ_in_their_names_alone() -> None:
    compose = yaml.safe_load((CLUSTER / "compose.yaml").read_text())
    services = compose["services"]
    assert set(services) == {"nats-a", "nats-b", "nats-c", "secret-owner", "init", "a", "b", "c"}
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert source in compose["volumes"] or source == "./secret" or (CLUSTER / source).exists(), source
        assert set(service.get("depends_on", {})) <= set(services)
    found = []
    for name in "abc":
        config = tomllib.loads((CLUSTER / f"{name}.toml").read_text())["cluster"]
        assert (config.pop("node"), config["engine"][0]) == (name, f"nats://nats-{name}:4222")
        assert not msgspec.convert({**config, "node": name}, ClusterConfig).check()
        found.append({**config, "engine": sorted(config["engine"])})
        node = services[name]
        assert f"/etc/mooring/{name}.toml" in node["command"]
        assert "secret:/run/cluster:ro" in node["volumes"] and config["secret_file"] == "/run/cluster/secret"
    assert found[0] == found[1] == found[2]
    assert "'.[cluster]'" in (DEPLOY / "Dockerfile").read_text(), "the image has the engine's client"


@pytest.mark.skipif(PROGRAM is None, reason="no nats-server here (its wheel is for x86_64 alone)")
def test_the_engine_of_compose_reads_its_configuration() -> None:
    checked = run(str(PROGRAM), "-t", "-c", str(CLUSTER / "nats.conf"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "sync_interval: always" in (CLUSTER / "nats.conf").read_text()


@needs_systemd
def test_the_unit_verifies_with_the_drop_in_of_a_node(tmp_path: Path) -> None:
    for name in ("mooring.service", "mooring.socket"):
        text = (DEPLOY / "systemd" / name).read_text()
        (tmp_path / name).write_text(text.replace("/opt/mooring/bin/mooring", "/bin/true"))
    (tmp_path / "nats-server.service").write_text("[Service]\nExecStart=/bin/true\n")
    (tmp_path / "mooring.service.d").mkdir()
    shutil.copy(DEPLOY / "systemd" / "mooring-cluster.conf", tmp_path / "mooring.service.d" / "cluster.conf")
    verified = run(str(SYSTEMD_ANALYZE), "verify", str(tmp_path / "mooring.service"))
    assert verified.returncode == 0, verified.stderr
    assert verified.stderr == ""
