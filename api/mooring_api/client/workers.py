"""The client's verbs of workers."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from mooring_api.client.transport import Transport, keyed
from mooring_service.records import Killed, WorkerRecord


class _Workers(msgspec.Struct, frozen=True):
    workers: list[WorkerRecord]


class WorkerVerbs(Transport):
    """Look, start, kill, drain, call."""

    async def workers(self, *, node: str | None = None) -> list[WorkerRecord]:
        """Return all workers, in a cluster of all nodes, or of `node`."""
        params = {} if node is None else {"node": node}
        return (await self._json(_Workers, "GET", "/v1/workers", params=params)).workers

    async def worker(self, name: str) -> WorkerRecord:
        """Return one worker."""
        return await self._json(WorkerRecord, "GET", f"/v1/workers/{quote(name, safe='')}")

    async def start_worker(self, name: str, *, node: str | None = None) -> WorkerRecord:
        """Have a worker Running; in a cluster at `node`."""
        said: dict[str, Any] = {}
        if node is not None:
            said = {"body": msgspec.json.encode({"node": node}), "content_type": "application/json"}
        return await self._json(WorkerRecord, "PUT", f"/v1/workers/{quote(name, safe='')}", **said)

    async def kill_worker(self, name: str) -> Killed:
        """End a worker for good."""
        return await self._json(Killed, "DELETE", f"/v1/workers/{quote(name, safe='')}")

    async def drain_worker(self, name: str, *, idempotency_key: str | None = None) -> WorkerRecord:
        """Let a worker take no new connections, and restart when the last one has ended."""
        path = f"/v1/workers/{quote(name, safe='')}/drain"
        return await self._json(WorkerRecord, "POST", path, headers=keyed(idempotency_key))

    async def call(
        self,
        worker: str,
        function: str,
        params: dict[str, Any] | list[Any] | None = None,
        *,
        wait: bool = True,
        idempotency_key: str | None = None,
    ) -> Any:
        """Run a function in a worker's context and return its result (None with `wait` false)."""
        headers = keyed(idempotency_key, {} if wait else {"Prefer": "respond-async"})
        body = msgspec.json.encode({"function": function, "params": params if params is not None else {}})
        _, data = await self.request(
            "POST",
            f"/v1/workers/{quote(worker, safe='')}/calls",
            body=body,
            content_type="application/json",
            headers=headers,
        )
        return msgspec.json.decode(data).get("result")
