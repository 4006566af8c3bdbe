"""Reading the configuration: the file, then the environment, then flags; each key and value checked. What there is to be set: `config`.

Order: ``mooring.toml``, then ``MOORING_<TABLE>_<KEY>`` of the environment, then flags; a later one wins. An unknown key
is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import msgspec

from mooring.checks import is_name
from mooring.dial_options import check_proxy, secret_faults, secret_of
from mooring.usercode.handlers import check_reference
from mooring.wire.egress import parse_entry
from mooring.wire.route import Routes
from mooring.wire.secret_table import NoSecret, Secrets
from mooring_service.config import NAMED, TABLES, ClusterRefused, Config, ConfigError
from mooring_service.hook_options import hook_settings_faults

NOT_SETTINGS = frozenset({"MOORING_TOKEN", "MOORING_URL", "MOORING_STATE_DIR", "MOORING_CONFIG"})
"""Variables of the environment that begin with MOORING_ and are not settings: the command line's."""

_SERVICE_LINK = re.compile(
    r"MOORING_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)\Z"
)
"""What Kubernetes sets in each pod for a Service whose name begins with ``mooring``, and Docker for a link."""


def load(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the configuration of a file (None: no file), the environment, and flags (``{"api": {"listen": …}}``).

    Raises:
        ConfigError: If a key is unknown or a value is not valid; it names the file or variable.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_file(path)
        _check_keys(tree, str(path))
        _convert(tree, str(path))
    for table, key, text, variable in _variables(environ):
        value = _parse_text(TABLES[table], key, text, variable)
        tree.setdefault(table, {})[key] = value
        _convert({table: {key: value}}, variable)
    for name, values in (overrides or {}).items():
        tree.setdefault(name, {}).update(values)
    _check_keys(tree, "the command line")
    return _check_values(_convert(tree, "the command line"))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors begin a file with a byte order mark
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: is not TOML: {exc}") from None


def _check_keys(tree: dict[str, Any], where: str) -> None:
    known = [field.encode_name for field in msgspec.structs.fields(Config)]
    for name, value in tree.items():
        if name not in known:
            raise ConfigError(f"{where}: unknown table [{name}]{_nearest(name, known)}")
        if not isinstance(value, dict):
            continue  # the conversion says so
        if name in TABLES:
            _check_table(TABLES[name], name, value, where)
        elif name in NAMED:
            for one, table in value.items():
                if isinstance(table, dict):
                    _check_table(NAMED[name], f"{name}.{one}", table, where)


def _check_table(struct: type[msgspec.Struct], place: str, table: dict[str, Any], where: str) -> None:
    keys = [field.encode_name for field in msgspec.structs.fields(struct)]
    for key in table:
        if key not in keys:
            raise ConfigError(f"{where}: unknown key {place}.{key}{_nearest(key, keys, place)}")


def _nearest(name: str, known: list[str], table: str = "") -> str:
    found = difflib.get_close_matches(name, known, 1, cutoff=0.5)
    if not found:
        return f"; known: {', '.join(known)}"
    return f"; did you mean {table + '.' if table else ''}{found[0]}?"


def _convert(tree: dict[str, Any], where: str) -> Config:
    for name, table in tree.items():
        for key, value in table.items() if isinstance(table, dict) else ():
            if isinstance(value, float) and not math.isfinite(value):
                raise ConfigError(f"{where}: {name}.{key}: must be a finite number, not {value}")
    try:
        return msgspec.convert(tree, Config)
    except msgspec.ValidationError as exc:
        text, _, place = str(exc).partition(" - at `$.")
        raise ConfigError(f"{where}: {place.rstrip('`') or 'the file'}: {text}") from None


_SETTINGS = {
    f"MOORING_{table}_{field.encode_name}".upper(): (table, field)
    for table, struct in TABLES.items()
    for field in msgspec.structs.fields(struct)
}
"""Variable of the environment → the setting that it is."""


def ignored_variables(environ: Mapping[str, str]) -> list[str]:
    """Return the variables that begin like a setting and are none: they belong to somebody else."""
    return sorted(
        variable
        for variable, text in environ.items()
        if variable.startswith("MOORING_")
        and variable not in NOT_SETTINGS
        and not variable.startswith("MOORING_TEST_")
        and variable not in _SETTINGS
        and not _meant_for_us(variable, text)
    )


def _meant_for_us(variable: str, text: str) -> bool:
    """Say whether an unknown variable is a setting spelled wrongly: it names one of our tables.

    A Service named ``mooring-api`` makes variables that do so too: they are known by their form.
    """
    if not variable.startswith(tuple(f"MOORING_{table.upper()}_" for table in TABLES)):
        return False
    return _SERVICE_LINK.match(variable) is None and not (variable.endswith("_PORT") and "://" in text)


def _variables(environ: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    found: list[tuple[str, str, str, str]] = []
    for variable, text in environ.items():
        if variable in _SETTINGS:
            table, field = _SETTINGS[variable]
            found.append((table, field.encode_name, text, variable))
        elif _meant_for_us(variable, text):
            raise ConfigError(f"unknown variable {variable}{_nearest(variable, list(_SETTINGS))}")
    return found


def _parse_text(table: type[msgspec.Struct], key: str, text: str, variable: str) -> Any:
    kind = next(field.type for field in msgspec.structs.fields(table) if field.encode_name == key)
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is list or get_origin(kind) is list:
        return [part.strip() for part in text.split(",") if part.strip()]
    if kind is bool:
        if text.lower() in ("1", "true", "yes", "on"):
            return True
        if text.lower() in ("0", "false", "no", "off"):
            return False
        raise ConfigError(f"{variable}: must be true or false")
    if get_origin(kind) is dict:
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError as exc:
            raise ConfigError(f"{variable}: must be JSON: {exc}") from None
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise ConfigError(f"{variable}: must be a number") from None
    return text


def _check_values(config: Config) -> Config:
    for table, names in (("handlers", config.handlers), ("functions", config.functions)):
        for name, reference in names.items():
            if not is_name(name):
                raise ConfigError(f"{table}.{name}: a public name is 1 to 63 letters, digits, '.', '_' or '-'")
            if not check_reference(reference):
                raise ConfigError(f"{table}.{name}: {reference!r} is not of the form module:attribute")
    egress, dial = config.egress, config.dial
    for place, entries in (
        ("egress.allow", egress.allow),
        ("egress.deny", egress.deny),
        ("dial.bypass", dial.bypass),
        ("delivery.allow", config.delivery.allow),
        ("delivery.deny", config.delivery.deny),
    ):
        for entry in entries:
            try:
                parse_entry(entry)
            except ValueError as exc:
                raise ConfigError(f"{place}: {exc}") from None
    _check_dial(config)
    for name, hook in config.hooks.items():
        for fault in hook_settings_faults(name, hook, allow_plain=config.delivery.allow_plain):
            raise ConfigError(fault)
    _check_secrets(config)
    for name, path in config.recipes.items():
        if not is_name(name):
            raise ConfigError(f"recipes.{name}: a public name is 1 to 63 letters, digits, '.', '_' or '-'")
        if not path.startswith("/") or "\0" in path:
            raise ConfigError(f"recipes.{name}: the path must be absolute")
    for wrong in config.redial.check():
        raise ConfigError(f"redial{wrong.pointer.replace('/', '.')}: {wrong.detail}")
    for name, token in config.tokens.items():
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", token.hash):
            raise ConfigError(f"tokens.{name}.hash: must be sha256: and 64 hex digits (mooring token --hash)")
    if (config.api.tls_cert is None) != (config.api.tls_key is None):
        raise ConfigError("api: tls_cert and tls_key go together")
    _check_cluster(config)
    return config


def _check_cluster(config: Config) -> None:
    for fault in config.cluster.check():
        raise ConfigError(f"cluster.{fault}")
    beside = [table for table in ("hooks", "connections") if getattr(config, table, None)]
    if unlike := config.cluster.unlike(config.journal.store, beside):
        raise ClusterRefused(unlike)


def _check_dial(config: Config) -> None:
    for name, proxy in config.proxies.items():
        if not is_name(name):
            raise ConfigError(f"proxies.{name}: a proxy's name is 1 to 63 letters, digits, '.', '_' or '-'")
        for fault in check_proxy(proxy, f"proxies/{name}"):
            raise ConfigError(f"{fault.pointer.replace('/', '.')}: {fault.detail}")
        name_of_secret = secret_of(proxy.password)
        if name_of_secret is not None and (unknown := Secrets(config.secrets).unknown(name_of_secret)):
            raise ConfigError(f"proxies.{name}.password: {unknown}")
        if proxy.tls is not None and not proxy.tls.verify and not config.egress.allow_insecure_tls:
            raise ConfigError(f"proxies.{name}.tls: verify false needs [egress] allow_insecure_tls")
    if config.dial.proxy is not None and config.dial.proxy not in config.proxies:
        known = _nearest(config.dial.proxy, list(config.proxies)) if config.proxies else ""
        raise ConfigError(f"dial.proxy: [proxies] has no {config.dial.proxy!r}{known}")
    try:
        Routes(config.dial_settings)
    except ValueError as exc:
        raise ConfigError(str(exc)) from None


def _check_secrets(config: Config) -> None:
    for name, source in config.secrets.items():
        if not is_name(name):
            raise ConfigError(f"secrets.{name}: a secret's name is 1 to 63 letters, digits, '.', '_' or '-'")
        for fault in secret_faults(source):
            raise ConfigError(f"secrets.{name}{fault.pointer.replace('/', '.')}: {fault.detail}")
        try:
            Secrets({name: source})
        except ValueError as exc:
            raise ConfigError(f"secrets.{name}.hosts: {exc}") from None


def check_secret(config: Config, name: str) -> None:
    """Check that a secret of the configuration can be had on this machine, now.

    Raises:
        ConfigError: If not; it names the place.
    """
    try:
        Secrets(config.secrets).read(name)
    except NoSecret as exc:
        raise ConfigError(f"secrets.{name}: {exc}") from None


def check_secrets(config: Config) -> None:
    """Check all of them, as a start does.

    Raises:
        ConfigError: As `check_secret`, of the first.
    """
    for name in config.secrets:
        check_secret(config, name)
