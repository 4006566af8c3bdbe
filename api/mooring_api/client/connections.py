"""The client's verbs of connections."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import msgspec

from mooring_api.client.answers import ConnectionPage
from mooring_api.client.transport import Transport, keyed
from mooring_service.records import ConnectionRecord


class ConnectionVerbs(Transport):
    """Open, look, change, terminate. A connection is its id, or its name."""

    async def open(
        self, /, url: str, *, wait: bool = True, idempotency_key: str | None = None, **options: Any
    ) -> ConnectionRecord:
        """Open a connection; `options` are the other keys of the create body, in camelCase.

        With `wait` false it returns at once, status Connecting.
        """
        headers = keyed(idempotency_key, {} if wait else {"Prefer": "respond-async"})
        body = msgspec.json.encode({"url": url, **options})
        return await self._json(
            ConnectionRecord, "POST", "/v1/connections", body=body, content_type="application/json", headers=headers
        )

    async def put(self, name: str, /, url: str, *, wait: bool = True, **options: Any) -> ConnectionRecord:
        """Have a connection of this name: the one that is there and was asked for the same, or a new one. `options` as of `open`.

        With `wait` false it returns at once, status Connecting if it is new.
        """
        return await self._json(
            ConnectionRecord,
            "PUT",
            path_of(name),
            body=msgspec.json.encode({"url": url, **options}),
            content_type="application/json",
            headers={} if wait else {"Prefer": "respond-async"},
        )

    async def change(self, connection: int | str, /, **changes: Any) -> ConnectionRecord:
        """Change what a connection is asked for, from its next attempt on; `changes` in camelCase, None: back to the default."""
        return await self._json(
            ConnectionRecord,
            "PATCH",
            path_of(connection),
            body=msgspec.json.encode(changes),
            content_type="application/json",
        )

    async def connections(
        self,
        *,
        worker: str | None = None,
        status: str | None = None,
        name: str | None = None,
        ready: bool | None = None,
        node: str | None = None,
        after: int = 0,
        limit: int = 1000,
    ) -> ConnectionPage:
        """Return a page of connections, by id; with `node`, in a cluster, of those of that node."""
        params = {"after": str(after), "limit": str(limit)}
        if worker is not None:
            params["worker"] = worker
        if status is not None:
            params["status"] = status
        if name is not None:
            params["name"] = name
        if ready is not None:
            params["ready"] = "true" if ready else "false"
        if node is not None:
            params["node"] = node
        return await self._json(ConnectionPage, "GET", "/v1/connections", params=params)

    async def connection(self, connection: int | str) -> ConnectionRecord:
        """Return one connection."""
        return await self._json(ConnectionRecord, "GET", path_of(connection))

    async def reconnect(
        self,
        connection: int | str,
        *,
        delay: float = 0.0,
        code: int = 1000,
        reason: str = "",
        wait: int | None = None,
        idempotency_key: str | None = None,
    ) -> ConnectionRecord:
        """Have a kept connection get a new socket; with `wait`, return once that is ready, within so many seconds."""
        headers = keyed(idempotency_key, {} if wait is None else {"Prefer": f"wait={wait}"})
        body = msgspec.json.encode({"delay": delay, "code": code, "reason": reason})
        return await self._json(
            ConnectionRecord,
            "POST",
            f"{path_of(connection)}/reconnect",
            body=body,
            content_type="application/json",
            headers=headers,
        )

    async def terminate(
        self, connection: int | str, code: int | None = None, reason: str | None = None
    ) -> ConnectionRecord:
        """Close a connection and return its final record."""
        params = {}
        if code is not None:
            params["code"] = str(code)
        if reason is not None:
            params["reason"] = reason
        return await self._json(ConnectionRecord, "DELETE", path_of(connection), params=params)


def path_of(connection: int | str) -> str:
    """Return where a connection is, by its id or its name; what is neither reaches nothing else."""
    text = str(connection)
    # Nothing keeps these two from being taken for steps in a path (RFC 3986 section 5.2.4).
    return f"/v1/connections/{'...' if text in ('.', '..') else quote(text, safe='')}"
