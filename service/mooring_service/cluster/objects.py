"""The stream as it must be: made by `mooring cluster init`, verified by each node at its start, and the versions of the engine.

Knows what a node must refuse, one sentence each. What stands in a message is not its concern.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec

from mooring_service.cluster.engine import (
    NOT_ENABLED,
    STREAM_NOT_FOUND,
    Down,
    Engine,
    EngineSettings,
    Refused,
    Unknown,
)
from mooring_service.cluster_config import ClusterConfig

SCHEMA = "1"
OLDEST_VERSION = (2, 14, 4)
GOOD_VERSION = (2, 14, 6)
MAX_MESSAGE_BYTES = 1 << 20
INIT_TIMEOUT_S = 60.0  # the first stream of three new servers takes up to 11 s

_S = 10**9  # the engine counts time in nanoseconds


class WrongEngine(Exception):
    """What waiting does not mend: the engine, or what is in it, is not what a node needs. The text says what to do."""


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What `mooring cluster init` may choose."""

    replicas: int = 3
    max_bytes: int = 8 << 30
    max_age_s: float = 7 * 86_400.0


def engine_settings(config: ClusterConfig, urls: list[str] | None = None) -> EngineSettings:
    """Return how this node comes to its engine.

    Raises:
        OSError: If the password's file cannot be read.
    """
    password = None
    if config.password_file is not None:
        password = Path(config.password_file).read_text(encoding="utf-8").strip()
    return EngineSettings(
        urls=urls or config.engine,
        node=config.node,
        user=config.user,
        password=password,
        credentials=config.credentials,
        tls_ca=config.tls_ca,
        tls_cert=config.tls_cert,
        tls_key=config.tls_key,
    )


def stream_name(cluster: str) -> str:
    """Return the name of the cluster's stream: the log."""
    return f"mooring_{cluster}_log"


def subject_of(cluster: str, node: str) -> str:
    """Return the subject of a node's chain."""
    return f"mooring.{cluster}.log.{node}"


def stream_of(cluster: str, settings: StreamSettings) -> dict[str, Any]:
    """Return the configuration with which the stream is made."""
    return {
        "name": stream_name(cluster),
        "subjects": [subject_of(cluster, "*")],
        "storage": "file",
        "retention": "limits",
        "discard": "old",
        "num_replicas": settings.replicas,
        "max_age": int(settings.max_age_s * _S),
        "max_bytes": settings.max_bytes,
        "max_msg_size": MAX_MESSAGE_BYTES,
        "max_msgs": -1,
        "max_consumers": -1,
        "duplicate_window": _S // 10,  # not used: the chain makes each message once
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "metadata": {"mooring-schema": SCHEMA, "mooring-replicas": str(settings.replicas)},
    }


def version_of(text: str) -> tuple[int, ...]:
    """Return the version that a server tells, without what may follow its third number; () where it is none."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()


def check_version(text: str, where: str) -> str | None:
    """Return what is to be warned of in a server's version.

    Raises:
        WrongEngine: If it is older than what does not lose acknowledged messages.
    """
    version = version_of(text)
    if version < OLDEST_VERSION:
        raise WrongEngine(
            f"the engine at {where} is nats-server {text or 'of an unknown version'}: at least "
            f"{'.'.join(map(str, OLDEST_VERSION))} is needed, earlier ones lose acknowledged messages"
        )
    if version < GOOD_VERSION:
        return (
            f"the engine at {where} is nats-server {text}: {'.'.join(map(str, GOOD_VERSION))} or later is recommended"
        )
    return None


async def create(engine: Engine, cluster: str, settings: StreamSettings) -> bool:
    """Make the stream; say whether it is new. One that is there is verified.

    Raises:
        WrongEngine: If it cannot be made, or is another than it must be.
        EngineError: If the engine does not answer for a minute.
    """
    deadline = asyncio.get_running_loop().time() + INIT_TIMEOUT_S
    while True:
        try:
            await verify(engine, cluster)
            return False
        except NoStream:
            pass
        except (Unknown, Down):
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
            continue
        try:
            await engine.api(f"STREAM.CREATE.{stream_name(cluster)}", stream_of(cluster, settings), timeout_s=5.0)
            return True
        except (Unknown, Down):  # no leader yet: it may have been made, which the next round sees
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.2)
        except Refused as exc:
            if "offline" in str(exc) and asyncio.get_running_loop().time() < deadline:  # they are starting
                await asyncio.sleep(0.2)
                continue
            hint = "; give the servers more max_file, or ask for less --max-bytes" if "storage" in str(exc) else ""
            raise WrongEngine(f"the stream {stream_name(cluster)} cannot be made: {exc}{hint}") from None


class NoStream(WrongEngine):
    """The stream is not there."""


async def verify(engine: Engine, cluster: str) -> list[str]:
    """Check the server that the link leads to, and the stream; return what is to be warned of.

    Raises:
        WrongEngine: If a node must not start with it.
        EngineError: If it cannot be asked just now.
    """
    warning = check_version(engine.server, engine.url)
    name = stream_name(cluster)
    try:
        answer = await engine.api(f"STREAM.INFO.{name}")
    except Refused as exc:
        if exc.code == STREAM_NOT_FOUND:
            raise NoStream(f"the engine has no stream {name}: run `mooring cluster init` once") from None
        if exc.code in NOT_ENABLED:
            raise WrongEngine(f"the engine at {engine.url} has no JetStream for this user: {exc}") from None
        raise WrongEngine(f"the engine does not tell about the stream {name}: {exc}") from None
    except Down as exc:
        if engine.link is not None and not engine.link.client.is_closed and "nobody answers" in str(exc):
            raise WrongEngine(
                f"the engine at {engine.url} has no JetStream: start nats-server with a jetstream {{ }} block"
            ) from None
        raise
    wrong = differences(answer["config"], cluster)
    if wrong:
        raise WrongEngine(
            f"the stream {name} is not as `mooring cluster init` makes it: {'; '.join(wrong)}; remove it, or mend it with `nats stream edit`"
        )
    return [warning] if warning else []


def differences(config: dict[str, Any], cluster: str) -> list[str]:
    """Return where a stream's configuration is not what it must be; what `init` lets choose may be anything."""
    metadata = config.get("metadata") or {}
    wanted = stream_of(cluster, StreamSettings())
    free = {"num_replicas", "max_age", "max_bytes", "metadata"}
    wrong = [
        f"{key} is {config.get(key)!r}, not {value!r}"
        for key, value in wanted.items()
        if key not in free and config.get(key, -1 if value == -1 else False if value is False else None) != value
    ]
    if metadata.get("mooring-schema") != SCHEMA:
        wrong.append(f"its metadata says mooring-schema {metadata.get('mooring-schema')!r}, not {SCHEMA!r}")
    if config.get("num_replicas", 1) < 3 and metadata.get("mooring-replicas") != str(config.get("num_replicas", 1)):
        wrong.append(f"it has {config.get('num_replicas', 1)} replicas, and init was not asked for so few")
    if config.get("mirror") or config.get("sources"):
        wrong.append("it mirrors another one")
    return wrong


async def bounds(engine: Engine, cluster: str) -> tuple[int, int]:
    """Return the first and the last sequence that the stream holds (first = last + 1: it holds none).

    Raises:
        EngineError: If it cannot be asked just now.
    """
    state = (await engine.api(f"STREAM.INFO.{stream_name(cluster)}"))["state"]
    return int(state["first_seq"]), int(state["last_seq"])


def grants(cluster: str, node: str) -> str:
    """Return what a node's user may do, as a block of nats-server's configuration."""
    stream = stream_name(cluster)
    publish = [
        f"mooring.{cluster}.>",
        f"$JS.API.STREAM.INFO.{stream}",
        f"$JS.API.STREAM.MSG.GET.{stream}",
        f"$JS.API.DIRECT.GET.{stream}",
        f"$JS.API.CONSUMER.CREATE.{stream}.>",
        f"$JS.API.CONSUMER.MSG.NEXT.{stream}.>",
        f"$JS.API.CONSUMER.DELETE.{stream}.>",
        "$JS.ACK.>",
    ]
    subscribe = [f"mooring.{cluster}.cmd.{node}", f"_INBOX_{node}.>"]
    return (
        f'{{ user: "{node}", password: "…", permissions: {{\n'
        f"    publish: [{', '.join(map(_quoted, publish))}]\n"
        f"    subscribe: [{', '.join(map(_quoted, subscribe))}]\n"
        "    allow_responses: true } }"
    )


def _quoted(text: str) -> str:
    return f'"{text}"'
