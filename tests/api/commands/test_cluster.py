"""`mooring cluster init` and `check`, and what a configuration with [cluster] refuses, as a user types and reads it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from mooring_service.config import ClusterRefused, ConfigError
from mooring_service.config_file import load
from tests.cluster_kit.servers import EngineServers
from tests.command_line import run


def configuration(path: Path, servers: list[str], cluster: str, **more: object) -> Path:
    lines = [
        f"{key} = {json.dumps(value)}"
        for key, value in {"name": cluster, "node": "a", "engine": servers, **more}.items()
    ]
    path.write_text("[cluster]\n" + "\n".join(lines) + "\n")
    return path


async def test_init_makes_the_log_once_and_check_finds_all_well(
    servers: EngineServers, cluster_name: str, tmp_path: Path
) -> None:
    config = str(configuration(tmp_path / "mooring.toml", servers.urls, cluster_name))
    missing = await run("cluster", "check", "--config", config)
    assert missing.code == 1
    assert "run `mooring cluster init` once" in missing.out
    made = await run("cluster", "init", "--config", config, "--max-bytes", str(1 << 26), "--json")
    assert json.loads(made.out) == {"stream": f"mooring_{cluster_name}_log", "made": True}
    again = await run("cluster", "init", "--config", config)
    assert "is there, and as it must be" in again.out
    found = await run("cluster", "check", "--config", config, "--monitor", f"http://127.0.0.1:{servers.monitors[0]}")
    assert found.code == 0, found
    assert found.out.count("ok  server") == 3
    assert "sync_interval is not always" in found.out
    assert "dead_after 15, secret_file none" in found.out


async def test_grants_are_printed_without_an_engine(tmp_path: Path) -> None:
    config = configuration(tmp_path / "mooring.toml", ["nats://127.0.0.1:1"], "prod")
    printed = await run("cluster", "init", "--config", str(config), "--grants")
    assert printed.code == 0
    assert '"$JS.API.CONSUMER.CREATE.mooring_prod_log.>"' in printed.out
    assert "STREAM.DELETE" not in printed.out


async def test_an_engine_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    config = configuration(tmp_path / "mooring.toml", ["nats://127.0.0.1:1"], "prod")
    failed = await run("cluster", "init", "--config", str(config))
    assert failed.code == 1
    assert "no link to the engine within 5 s: nats://127.0.0.1:1" in failed.errors


async def test_nodes_whose_secret_is_the_same_are_told_so_however_their_files_end(tmp_path: Path) -> None:
    said = []
    for name, text in (("a", "one secret\n"), ("b", "one secret")):
        (tmp_path / f"{name}.secret").write_text(text)
        config = tmp_path / f"{name}.toml"
        configuration(config, ["nats://127.0.0.1:1"], "prod", secret_file=str(tmp_path / f"{name}.secret"))
        said.append(run("cluster", "check", "--config", str(config)))
    told = [ran.out.splitlines()[-1] for ran in await asyncio.gather(*said)]
    assert told[0] == told[1]
    assert "to be equal at all nodes: dead_after 15, secret_file " in told[0]


async def test_without_cluster_in_the_configuration_there_is_nothing_to_make(tmp_path: Path) -> None:
    (tmp_path / "mooring.toml").write_text("")
    failed = await run("cluster", "init", "--config", str(tmp_path / "mooring.toml"))
    assert failed.code == 1
    assert "has no [cluster]" in failed.errors


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Prod"}, "cluster.name: the name of a cluster"),
        ({"name": "a" * 21}, "cluster.name"),
        ({"node": "a.b"}, "cluster.node: the name of a node"),
        ({"node": "-a"}, "cluster.node"),
        ({"engine": []}, "cluster.engine: at least one server"),
        ({"engine": ["http://a"]}, "is not of the form nats://HOST:PORT"),
        ({"user": "u"}, "go together"),
        ({"credentials": "f", "user": "u", "password_file": "p"}, "exclude each other"),
        ({"tls_cert": "c"}, "go together"),
        ({"dead_after": 4.9}, "cluster.dead_after: must be 5 or more"),
        ({"unsure": "maybe"}, "cluster.unsure"),
        ({"pase": 1}, "did you mean cluster.pace"),
        ({"advertise": "here"}, "cluster.advertise"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_its_place(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    values: dict[str, object] = {"name": "prod", "node": "a", "engine": ["nats://a:4222"], **changes}
    path = tmp_path / "mooring.toml"
    path.write_text("[cluster]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items()))
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    assert says in str(caught.value)


async def test_a_journal_in_memory_and_a_missing_extra_end_a_start_with_78(tmp_path: Path) -> None:
    config = configuration(tmp_path / "mooring.toml", ["nats://127.0.0.1:1"], "prod")
    config.write_text(config.read_text() + '[journal]\nstore = "memory"\n')
    failed = await run("serve", "--config", str(config), "--state-dir", str(tmp_path / "state"))
    assert failed.code == 78
    assert (
        failed.errors.strip() == "Error: journal.store: a node of a cluster needs one that survives a restart: sqlite"
    )


def test_without_the_extra_the_line_to_type_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configuration(tmp_path / "mooring.toml", ["nats://127.0.0.1:1"], "prod")
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(ClusterRefused, match=r"pip install 'mooring\[cluster\]'"):
        load(config, {})
