"""restart, backup, restore."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import time
from pathlib import Path

import click

from mooring import private_files
from mooring.errors import JournalUnavailable
from mooring_api.client import ApiError, Client, ServiceAway
from mooring_api.commands.target import Failure, Progress, Target, as_json, plural, show_json
from mooring_api.server.restart import refusal_file
from mooring_api.server.state_file import prepare_state_dir
from mooring_service.config import ConfigError
from mooring_service.journal.file import restore as restore_file
from mooring_service.lock import StateDirectoryBusy, StateLock, holder_of

RESTART_TIMEOUT_S = 60.0  # a busy machine takes its time for two starts: of the check, and of the service
POLL_S = 0.02


@click.command()
@as_json
@click.pass_obj
def restart(target: Target, as_json: bool) -> None:
    """The program of today takes its place; workers and connections go on.

    The old workers keep their code: `mooring workers drain NAME` renews them one by one. A program that cannot use
    the configuration is refused, and the service goes on.

    \b
    Example:  mooring restart
    """
    pid = holder_of(target.state_dir)
    if pid is None:
        raise Failure(f"no service runs on {target.state_dir}")
    address = target.state_dir / "address"
    before = _stamp(address)
    refused = refusal_file(target.state_dir)
    refused.unlink(missing_ok=True)
    begun = time.monotonic()
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise Failure(f"no service runs on {target.state_dir}") from None
    try:
        if holder_of(target.state_dir) != pid:  # it has ended just now, and its number may be another's
            raise Failure(f"no service runs on {target.state_dir}")
        signal.pidfd_send_signal(fd, signal.SIGUSR2)
    except PermissionError:
        raise Failure(f"the service is process {pid} of another user") from None
    finally:
        os.close(fd)
    progress = Progress()
    while _stamp(address) in (before, None):
        progress.show(f"{time.monotonic() - begun:.0f} s")
        if refused.exists():
            reason = refused.read_text().strip() or "its log says why"
            raise Failure(f"the restart is refused, the old service goes on: {reason}")
        if holder_of(target.state_dir) is None and time.monotonic() - begun > RESTART_TIMEOUT_S / 2:
            raise Failure("the service did not come back; its log says why")
        if time.monotonic() - begun > RESTART_TIMEOUT_S:
            raise Failure(f"no new service after {RESTART_TIMEOUT_S:g} s; the log says why")
        time.sleep(POLL_S)
    progress.clear()
    ready = target.run(_ready)
    seconds = round(time.monotonic() - begun, 1)
    if as_json:
        show_json({"seconds": seconds, "ready": ready})
    else:
        click.echo(f"restarted in {seconds} s{'' if ready else '; it is not ready yet: see /readyz'}")


def _stamp(path: Path) -> int | None:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None


async def _ready(client: Client) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            await client.request("GET", "/readyz")
            return True
        except (ApiError, ServiceAway):
            await asyncio.sleep(0.05)
    return False


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@as_json
@click.pass_obj
def backup(target: Target, file: Path, as_json: bool) -> None:
    """FILE becomes a consistent one, while the service runs; it is on the disk when this ends.

    \b
    Example:  mooring backup journal-$(date +%F).db
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(file, flags, 0o600)
    except OSError as exc:
        raise Failure(f"{file}: {exc.strerror}") from None

    async def copy(client: Client) -> int:
        size = 0
        with os.fdopen(fd, "wb") as out, Progress() as progress:
            async for chunk in client.backup():
                size += len(chunk)
                out.write(chunk)
                progress.show(f"{size / 2**20:.0f} MiB")
            out.flush()
            os.fsync(out.fileno())
        private_files.sync_folder(file.absolute().parent)
        return size

    try:
        size = target.run(copy)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    if as_json:
        show_json({"file": str(file), "bytes": size})
        return
    click.echo(f"{file}: {size:,} bytes")
    if target.url is None and (definitions := target.state_dir / "hooks.json").exists():
        click.echo(f"{definitions} is not in it: keep a copy beside it, as carefully as the token")


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
@click.pass_obj
def restore(target: Target, file: Path, as_json: bool) -> None:
    """FILE becomes the journal of a state directory that has none.

    Cursors of before get a gap (the epoch is new); connections of before get their onTerminate.

    \b
    Example:  mooring --state-dir /var/lib/mooring restore journal.db
    """
    try:
        prepare_state_dir(target.state_dir)
        lock = StateLock(target.state_dir)
        lock.acquire()
        try:
            hooks = restore_file(file, target.state_dir / "journal.db")
        finally:
            lock.release()
    except (ConfigError, StateDirectoryBusy) as exc:
        raise Failure(str(exc)) from None
    except JournalUnavailable as exc:
        raise Failure(exc.detail) from None
    if as_json:
        show_json({"stateDir": str(target.state_dir), "hooks": hooks})
    else:
        start = shlex.join(["mooring", "--state-dir", str(target.state_dir), "serve"])
        click.echo(f"restored into {target.state_dir}; start it with: {start}")
        if hooks:
            click.echo(_of_hooks(hooks, target.state_dir / "hooks.json"))


def _of_hooks(names: list[str], definitions: Path) -> str:
    """Say what becomes of hooks: the copy has their places, and neither definition nor secret of any."""
    text = f"{plural(len(names), 'hook')} ({', '.join(names)}) will go on where the copy has them, behind one gap"
    if definitions.exists():
        return text
    return f"{text}: before the start put the hooks.json of then into {definitions.parent}, or have them in the configuration"
