"""What of the configuration every worker is started with. Pure."""

from __future__ import annotations

import msgspec

from mooring.link.messages import WorkerSettings
from mooring_service.config import Config


def worker_settings(config: Config, app_dirs: list[str]) -> WorkerSettings:
    """Return what every worker is started with; the supervisor fills in name, identity and files."""
    egress = config.egress
    return WorkerSettings(
        **msgspec.structs.asdict(config.worker),
        worker="",
        incarnation="",
        secret="",
        socket_path="",
        log_file="",
        exit_record="",
        app_dirs=app_dirs,
        max_connections=config.limits.max_connections_per_worker,
        egress_allow=list(egress.allow),
        egress_deny=list(egress.deny),
        allow_insecure_tls=egress.allow_insecure_tls,
        log_format="console" if config.log.format == "console" else "json",
        redial=config.redial,
        kill_timeout_s=config.supervisor.kill_timeout,
        dial=config.dial_settings,
        recipes=config.recipes,
        functions=config.functions,
        max_pending_requests=config.limits.max_pending_requests,
        in_memory=config.journal.store == "memory",
    )
