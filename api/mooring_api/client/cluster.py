"""The client's verb of the cluster."""

from __future__ import annotations

from mooring_api.client.transport import Transport
from mooring_service.cluster_records import ClusterRecord


class ClusterVerbs(Transport):
    """Look."""

    async def cluster(self) -> ClusterRecord:
        """Return the cluster as the service sees it."""
        return await self._json(ClusterRecord, "GET", "/v1/cluster")
