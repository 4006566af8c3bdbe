"""A service without `[cluster]`: there is none, and nothing of it is loaded."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.conftest import StartService
from tests.servers import EchoServer

# Runs the command line, and says at its end what was imported.
TELL_MODULES = (
    "import atexit, pathlib, sys\n"
    "from mooring_api.commands.cli import main\n"
    "atexit.register(lambda: pathlib.Path({path!r}).write_text(chr(10).join(sys.modules)))\n"
    "sys.exit(main())"
)


async def test_without_a_cluster_there_is_none_and_nothing_of_it_is_imported_by_a_service_that_does_everything(
    start_service: StartService, tmp_path: Path
) -> None:
    told = tmp_path / "modules"
    service = await start_service(program=(sys.executable, "-c", TELL_MODULES.format(path=str(told))))
    async with EchoServer() as echo:
        one = (await service.open(echo.url, name="one", reconnect={"persist": True}))["id"]
        assert (await service.send(one, b"hello", **{"Idempotency-Key": "k"}))["sent"] == 1
        await service.events(one, count=2)
        await service.call("PUT", "/v1/workers/other", 201)
        await service.get("/v1/connections/99", 404)
        await service.get("/readyz")
        await service.call("DELETE", f"/v1/connections/{one}")
    problem = await service.get("/v1/cluster", 404)
    assert problem["type"].endswith("no-cluster")
    names = {path.name for path in service.state_dir.iterdir()}
    assert "journal.db" in names and not any("cluster" in name for name in names)
    assert await service.stop() == 0
    modules = told.read_text().split("\n")
    assert "mooring_service.service" in modules
    assert not [
        name for name in modules
        if name.split(".")[0] == "nats" or f"{name}.".startswith(("mooring_service.cluster.", "mooring_service.membership."))
    ]  # fmt: skip
