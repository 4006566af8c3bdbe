"""The configuration."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mooring.bounds import WorkerBounds
from mooring.link.channel import MAX_COMMAND_BYTES, MAX_FRAME_BYTES
from mooring.link.messages import WorkerSettings
from mooring_service.config import TABLES, Config, ConfigError
from mooring_service.config_file import ignored_variables, load
from mooring_service.worker_settings import worker_settings


def _load(tmp_path: Path, text: str, **environ: str) -> Config:
    path = tmp_path / "mooring.toml"
    path.write_text(text)
    return load(path, environ)


def test_later_sources_win(tmp_path: Path) -> None:
    config = _load(tmp_path, "[limits]\nmax_connections = 5\nmax_workers = 7", MOORING_LIMITS_MAX_CONNECTIONS="6")
    assert (config.limits.max_connections, config.limits.max_workers) == (6, 7)
    config = load(None, {"MOORING_API_LISTEN": "127.0.0.1:1"}, {"api": {"listen": "127.0.0.1:2"}})
    assert config.api.listen == "127.0.0.1:2"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("[limits]\nmax_conections = 5", "max_connections"),
        ("[limit]\nmax_connections = 5", "limits"),
        ("[journal]\nlevel = 'powr'", "level"),
        ("[limits]\nmax_connections = -5", "max_connections"),
        ("[limits]\nmax_connections = '5'", "max_connections"),
        ("[limits]\nmax_body_bytes = 251658241", "max_body_bytes"),  # one frame of the link could not hold it
        ("[handlers]\nx = 'no colon'", "x"),
        ("[egress]\nallow = ['10.0.0.0/99']", "egress.allow"),
        ("[tokens.ci]\nhash = 'plain'", "ci"),
        ("[tokens.ci]\nhsah = 'plain'", "tokens.ci.hash"),
        ("[dial]\nproxi = 'corp'", "dial.proxy"),
        ("[dial]\nproxy = 'crop'\n[proxies.corp]\nurl = 'http://proxy.test:3128'", "corp?"),
        ("[dial]\nbypass = ['10.0.0.0/99']", "dial.bypass"),
        ("[dial]\nhosts = { 'feed.test' = ['elsewhere.test'] }", "feed.test"),
        ("[proxies.corp]\nurl = 'http://proxy.test'", "proxies.corp.url: the port"),
        ("[proxies.corp]\nuri = 'http://proxy.test:1'", "proxies.corp.url"),
        ("[proxies.corp]\nurl = 'http://proxy.test:1'\npassword_file = '/x'", "proxies.corp.username"),
        ("[proxies.corp]\nurl = 'https://proxy.test:1'\ntls = { ca_file = 'ca.pem' }", "proxies.corp.tls.ca_file"),
        ("[proxies.corp]\nurl = 'https://proxy.test:1'\ntls = { verify = false }", "allow_insecure_tls"),
        ("[proxies.'a b']\nurl = 'http://proxy.test:1'", "a proxy's name"),
        ("[tokens.ci]\nhash = 'sha256:00'\nscopes = ['all']", "scopes"),
        ("not toml", "mooring.toml"),
    ],
)
def test_a_wrong_configuration_names_the_place(tmp_path: Path, text: str, hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        _load(tmp_path, text)


def test_an_unknown_variable_is_an_error_too() -> None:
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONECTIONS": "5"})
    with pytest.raises(ConfigError, match="MOORING_LIMITS_MAX_CONNECTIONS"):
        load(None, {"MOORING_LIMITS_MAX_CONNECTIONS": "many"})


KUBERNETES = {
    "MOORING_SERVICE_HOST": "10.96.12.7",
    "MOORING_SERVICE_PORT": "8480",
    "MOORING_SERVICE_PORT_HTTP": "8480",
    "MOORING_PORT": "tcp://10.96.12.7:8480",
    "MOORING_PORT_8480_TCP": "tcp://10.96.12.7:8480",
    "MOORING_PORT_8480_TCP_PROTO": "tcp",
    "MOORING_PORT_8480_TCP_PORT": "8480",
    "MOORING_PORT_8480_TCP_ADDR": "10.96.12.7",
}


def test_the_variables_that_kubernetes_and_docker_set_are_nobodys_mistake() -> None:
    # A Service may be named mooring, or like one of our tables.
    of_others = KUBERNETES | {name.replace("MOORING_", "MOORING_API_"): text for name, text in KUBERNETES.items()}
    assert load(None, {**of_others, "MOORING_API_LISTEN": "127.0.0.1:1"}).api.listen == "127.0.0.1:1"
    assert ignored_variables({**of_others, "MOORING_API_LISTEN": "127.0.0.1:1", "MOORING_URL": "x"}) == sorted(
        of_others
    )


def test_an_applications_own_variables_are_left_alone_but_a_setting_spelled_wrongly_is_not() -> None:
    load(None, {"MOORING_POINTS": "7", "MOORING_DATABASE_URL": "x"})
    for variable in ("MOORING_API_PORT", "MOORING_API_HOSTS_", "MOORING_LOG_LEVEL_", "MOORING_WORKER_SERVICE"):
        with pytest.raises(ConfigError, match=variable):
            load(None, {variable: "8480"})
        assert ignored_variables({variable: "8480"}) == []


def _floats() -> list[tuple[str, str]]:
    return [
        (table, field.encode_name)
        for table, struct in TABLES.items()
        for field in msgspec.structs.fields(struct)
        if isinstance(field.default, float)
    ]


@pytest.mark.parametrize("text", ["inf", "-inf", "nan", "1e400", "1e300"])
@pytest.mark.parametrize(("table", "key"), _floats(), ids=str)
def test_a_time_that_no_clock_can_hold_is_refused_in_one_line(tmp_path: Path, table: str, key: str, text: str) -> None:
    for attempt in (
        lambda: _load(tmp_path, f"[{table}]\n{key} = {text}"),
        lambda: load(None, {f"MOORING_{table}_{key}".upper(): text}),
    ):
        with pytest.raises(ConfigError) as refused:
            attempt()
        assert f"{table}.{key}" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["max_events", "max_bytes", "ring_bytes"])
def test_a_count_that_the_journal_cannot_hold_is_refused(tmp_path: Path, key: str) -> None:
    for number in (2**63, 2**64, 10**30):
        with pytest.raises(ConfigError, match=rf"journal\.{key}"):
            _load(tmp_path, f"[journal]\n{key} = {number}")


def test_how_is_dialled_is_what_the_file_and_the_environment_say(tmp_path: Path) -> None:
    text = """
        [dial]
        bypass = ["*.internal", "10.0.0.0/8"]
        [proxies.corp]
        url = "https://proxy.test:3128"
        username = "mooring"
        password_file = "/etc/mooring/proxy.password"
        tls = { ca_file = "/etc/mooring/ca.pem" }
    """
    config = _load(tmp_path, text, MOORING_DIAL_PROXY="corp", MOORING_DIAL_HOSTS='{"feed.test": ["127.0.0.1"]}')
    told = msgspec.json.decode(msgspec.json.encode(worker_settings(config, [])), type=WorkerSettings).dial
    assert (told.proxy, told.bypass, told.hosts) == ("corp", ["*.internal", "10.0.0.0/8"], {"feed.test": ["127.0.0.1"]})
    assert msgspec.to_builtins(told.proxies["corp"].tls) == {
        "ca_file": "/etc/mooring/ca.pem", "cert_file": None, "key_file": None, "verify": True,
    }  # fmt: skip
    assert told.proxies["corp"].password_file == "/etc/mooring/proxy.password"
    with pytest.raises(ConfigError, match="MOORING_DIAL_HOSTS: must be JSON"):
        load(None, {"MOORING_DIAL_HOSTS": "feed.test=127.0.0.1"})


def test_a_body_that_no_link_could_carry_is_not_allowed(tmp_path: Path) -> None:
    """L3 of the review: such a send broke the link of its worker each time."""
    assert _load(tmp_path, f"[limits]\nmax_body_bytes = {MAX_COMMAND_BYTES}").limits.max_body_bytes < MAX_FRAME_BYTES
    with pytest.raises(ConfigError, match=r"limits.*max_body_bytes"):
        _load(tmp_path, f"[limits]\nmax_body_bytes = {MAX_COMMAND_BYTES + 1}")


def test_a_byte_order_mark_is_no_part_of_the_configuration(tmp_path: Path) -> None:
    assert _load(tmp_path, "\ufeff[limits]\nmax_workers = 7").limits.max_workers == 7


def test_what_a_worker_is_started_with_is_what_its_table_says(tmp_path: Path) -> None:
    other = {field.encode_name: (field.default + 1) for field in msgspec.structs.fields(WorkerBounds)}
    lines = "\n".join(f"{key} = {value}" for key, value in other.items())
    settings = worker_settings(_load(tmp_path, f"[worker]\n{lines}"), ["/x"])
    started_with = msgspec.json.decode(msgspec.json.encode(settings), type=WorkerSettings)
    assert {
        field.encode_name: getattr(started_with, field.name) for field in msgspec.structs.fields(WorkerBounds)
    } == other
    # And where nobody says anything, the defaults of the two floors are the same ones.
    named = dict.fromkeys(("worker", "incarnation", "secret", "socket_path", "log_file", "exit_record"), "")
    assert worker_settings(Config(), []) == WorkerSettings(**named)
