"""cluster init, cluster check: the engine of a cluster, before a node starts. `status` and `nodes` ask the running service."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from mooring_api.commands.configuration import config_path_of
from mooring_api.commands.tables import Column, console, plain, table
from mooring_api.commands.target import Failure, Refusal, Target, as_json, show_json
from mooring_service.cluster_config import ClusterConfig
from mooring_service.cluster_records import ClusterRecord, NodeRecord
from mooring_service.config import ClusterRefused, Config, ConfigError
from mooring_service.config_file import load

LINK_TIMEOUT_S = 5.0
MONITOR_TIMEOUT_S = 3.0

Found = TypeVar("Found")


@click.group()
def cluster() -> None:
    """It needs `[cluster]` in the configuration, and nats-server 2.14.6 or later (deploy/ says how).

    \b
    Example:  mooring cluster init --config mooring.toml --grants
    """


with_config = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Default: $MOORING_CONFIG or ./mooring.toml.",
)


def _configured(config_path: Path | None) -> Config:
    try:
        config = load(config_path_of(config_path), os.environ)
    except ConfigError as exc:
        raise (Refusal if isinstance(exc, ClusterRefused) else Failure)(str(exc)) from None
    if not config.cluster.name:
        raise Failure("the configuration has no [cluster]: it names the cluster, this node, and the engine's servers")
    return config


def _with_engine(config: ClusterConfig, urls: list[str], work: Callable[[Any], Awaitable[Found]]) -> Found:
    """Run `work` with a link to one of `urls`; what goes wrong is one sentence."""
    # Only here: without the extra there is no such module.
    from mooring_service.cluster.engine import Engine, EngineError
    from mooring_service.cluster.objects import WrongEngine, engine_settings

    async def main() -> Found:
        engine = Engine(engine_settings(config, urls))
        running = asyncio.create_task(engine.run())
        try:
            waiting = asyncio.create_task(engine.up.wait())
            await asyncio.wait({running, waiting}, timeout=LINK_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if running.done():
                running.result()
            if not engine.up.is_set():
                raise Failure(f"no link to the engine within {LINK_TIMEOUT_S:g} s: {engine.failure}")
            return await work(engine)
        except EngineError as exc:
            raise Failure(f"the engine at {engine.url or urls[0]} does not answer: {exc}") from None
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    try:
        return asyncio.run(main())
    except WrongEngine as exc:
        raise Refusal(str(exc)) from None
    except OSError as exc:
        raise Failure(f"{exc.filename or 'a file of [cluster]'}: {exc.strerror or exc}") from None


@cluster.command(
    help="Once per cluster, by a user who may make streams. Done again it says whether all is as it must be.\n"
    "\n"
    "\b\n"
    "Example:  mooring cluster init --config mooring.toml\n"
)
@with_config
@click.option(
    "--replicas", type=click.Choice(["1", "3", "5"]), default="3", help="Of the log. 1 survives no server's loss."
)
@click.option("--max-bytes", type=click.IntRange(min=1 << 24), default=8 << 30, help="Size of the log. Default: 8 GiB.")
@click.option(
    "--max-age", type=click.FloatRange(min=20.0), metavar="SECONDS", default=7 * 86_400.0, help="Default: a week."
)
@click.option("--grants", is_flag=True, help="Only print what a node's user must be allowed.")
@as_json
def init(as_json: bool, replicas: str, max_bytes: int, max_age: float, grants: bool, config_path: Path | None) -> None:
    """Make the stream, or print the grants."""
    config = _configured(config_path)
    from mooring_service.cluster import objects  # behind the check that it can be imported

    name = config.cluster.name
    if grants:
        click.echo(objects.grants(name, config.cluster.node))
        return
    settings = objects.StreamSettings(replicas=int(replicas), max_bytes=max_bytes, max_age_s=max_age)
    made = _with_engine(config.cluster, config.cluster.engine, lambda engine: objects.create(engine, name, settings))
    stream = objects.stream_name(name)
    if as_json:
        show_json({"stream": stream, "made": made})
    else:
        click.echo(
            f"{stream}: {'made' if made else 'is there, and as it must be'}; grants: mooring cluster init --grants"
        )


@cluster.command(
    help="Each server's version, the stream, what must be equal at all nodes; with --monitor whether the servers sync always.\n"
    "\n"
    "\b\n"
    "Example:  mooring cluster check --monitor http://127.0.0.1:8222\n"
)
@with_config
@click.option("--monitor", "monitors", multiple=True, metavar="URL", help="Of a server's monitoring port; repeatable.")
@as_json
def check(as_json: bool, monitors: tuple[str, ...], config_path: Path | None) -> None:
    """Look at the engine."""
    config = _configured(config_path)
    from mooring_service.cluster import objects  # behind the check that it can be imported

    failed = False

    def report(what: str, problem: str | None, warning: str | None = None) -> None:
        nonlocal failed
        failed = failed or problem is not None
        if as_json:
            show_json({"check": what, "ok": problem is None, "problem": problem or warning})
            return
        mark = click.style("ok", fg="green") if problem is None else click.style("no", fg="red")
        said = problem or warning
        click.echo(f"{mark}  {what}" + (f": {said}" if said else ""))

    for url in config.cluster.engine:

        async def verify(engine: Any) -> tuple[str, list[str]]:
            return engine.server, await objects.verify(engine, config.cluster.name)

        try:
            version, warnings = _with_engine(config.cluster, [url], verify)
        except Failure as exc:
            report(f"server {url}", exc.message)
        else:
            report(
                f"server {url} {version}, stream {objects.stream_name(config.cluster.name)}", None, "; ".join(warnings)
            )
    for monitor in monitors:
        try:
            always = _syncs_always(monitor)
        except (urllib.error.URLError, OSError, ValueError) as exc:
            report(f"monitor {monitor}", f"cannot be asked: {exc}")
        else:
            said = (
                None
                if always
                else "sync_interval is not always: a machine that loses its power may lose acknowledged messages"
            )
            report(f"monitor {monitor}", None, said)
    try:
        report(f"to be equal at all nodes: {_equal_at_all(config)}", None)
    except OSError as exc:
        report("secret_file", f"{exc.filename}: {exc.strerror}")
    sys.exit(1 if failed else 0)


NODE_COLUMNS = (
    Column("NODE", flexible=True),
    Column("STATUS"),
    Column("SEEN", right=True),
    Column("CONNS", right=True),
    Column("WORKERS", right=True, expendable=2),
    Column("ROOM", right=True, expendable=3),
    Column("SLOT", right=True, expendable=5),
    Column("VERSION", expendable=4),
    Column("URL", expendable=1, widest=40),
)


def _seen(node: NodeRecord) -> str:
    return "" if node.last_seen_ms is None else f"{node.last_seen_ms / 1000:.1f}s"


def _nodes(record: ClusterRecord, width: int) -> Table:
    rows = [
        (
            node.name + (" *" if node.name == record.node else ""),
            node.status + (", differs" if node.config_differs else ""),
            _seen(node),
            str(node.connections),
            str(node.workers),
            str(node.room),
            str(node.slot or ""),
            node.version,
            plain(node.url),
        )
        for node in record.nodes
    ]
    return table(NODE_COLUMNS, rows, width)


@cluster.command(
    help="All nodes, as the service that is asked (*) has read of them in the log.\n"
    "\n"
    "\b\n"
    "Example:  mooring cluster nodes\n"
)
@as_json
@click.pass_obj
def nodes(target: Target, as_json: bool) -> None:
    """List them."""
    record = target.run(lambda client: client.cluster())
    if as_json:
        for node in record.nodes:
            show_json(node)
        return
    out = console()
    out.print(_nodes(record, out.width))


@cluster.command(
    help="The engine, how far the log is read, what is not in it yet, and all nodes.\n"
    "\n"
    "\b\n"
    "Example:  mooring cluster status\n"
)
@as_json
@click.pass_obj
def status(target: Target, as_json: bool) -> None:
    """Show it."""
    record = target.run(lambda client: client.cluster())
    if as_json:
        show_json(record)
        return
    engine, log, behind = record.engine, record.log, record.unreplicated
    ack = "never" if engine.last_ack_ms is None else f"{engine.last_ack_ms / 1000:.1f} s ago"
    click.echo(f"cluster {record.name}, node {record.node}, epoch {record.epoch or '(none yet)'}")
    reason = f": {engine.reason}" if engine.reason else ""
    click.echo(
        f"engine  {engine.status}{reason}; {engine.server or 'no server'} {engine.version}, last acknowledged {ack}"
    )
    lag = f"{log.pending:,} messages behind for {log.lag_ms / 1000:.1f} s" if log.pending else "all of it is read"
    click.echo(f"log     read up to message {log.last:,}, {lag}" + (f"; {log.failure}" if log.failure else ""))
    if behind.additions:
        click.echo(
            f"unreplicated  {behind.events:,} events in {behind.additions:,} additions, {behind.bytes:,} bytes, "
            f"for {behind.oldest_seconds:.1f} s"
        )
    out = console()
    out.print(_nodes(record, out.width))


def _syncs_always(monitor: str) -> bool:
    if not monitor.startswith(("http://", "https://")):
        raise ValueError("must be http://HOST:PORT")
    with urllib.request.urlopen(f"{monitor.rstrip('/')}/varz", timeout=MONITOR_TIMEOUT_S) as answer:
        told = json.load(answer)
    return bool(told.get("jetstream", {}).get("config", {}).get("sync_always"))


def _equal_at_all(config: Config) -> str:
    """Return by what the nodes' configurations are compared: never a secret, only the beginning of its hash."""
    secret = Path(config.cluster.secret_file).read_bytes().strip() if config.cluster.secret_file else b""
    tokens = json.dumps(
        sorted((name, token.hash, sorted(token.scopes)) for name, token in config.tokens.items())
    ).encode()
    parts = {"secret_file": secret, "[tokens]": tokens}
    hashes = ", ".join(
        f"{name} {hashlib.sha256(value).hexdigest()[:8] if value else 'none'}" for name, value in parts.items()
    )
    return f"dead_after {config.cluster.dead_after:g}, {hashes}"
