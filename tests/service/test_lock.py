"""Who holds the lock of a state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mooring_service.lock import StateDirectoryBusy, StateLock, holder_of
from tests.conftest import ROOT

TWO_DEVICES = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
MOUNTED = 'mount -t tmpfs one "$0/one" && mount -t tmpfs two "$0/two" && exec "$@"'

HOLD = "import sys; from pathlib import Path; from mooring_service.lock import StateLock;"
HOLD += "StateLock(Path(sys.argv[1])).acquire(); print(flush=True); sys.stdin.read()"  # to the end of whoever has started it


def test_the_holder_is_named_and_nobody_when_it_has_ended(tmp_path: Path) -> None:
    assert holder_of(tmp_path) is None, "there is no file"
    (tmp_path / "lock").touch()
    assert holder_of(tmp_path) is None, "nobody holds it"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            assert holder_of(tmp_path) == other.pid
            with pytest.raises(StateDirectoryBusy, match=f"process {other.pid}"):
                StateLock(tmp_path).acquire()
        finally:
            other.kill()
    assert holder_of(tmp_path) is None
    lock = StateLock(tmp_path)
    lock.acquire()
    assert holder_of(tmp_path) == os.getpid()
    lock.release()
    assert holder_of(tmp_path) is None


PROGRAM = """
import os, subprocess, sys
from pathlib import Path
from mooring_service.lock import holder_of
one, two = Path(sys.argv[1], "one"), Path(sys.argv[1], "two")
other = subprocess.Popen([sys.executable, "-c", sys.argv[2], str(one)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
other.stdout.readline()
(two / "lock").touch()
assert (one / "lock").stat().st_ino == (two / "lock").stat().st_ino, "two files of one number, on two devices"
assert holder_of(one) == other.pid, holder_of(one)
assert holder_of(two) is None, holder_of(two)
told = subprocess.run(
    [sys.executable, "-m", "mooring_api", "--state-dir", str(two), "restart"], capture_output=True, text=True, timeout=120
)
assert told.returncode == 1 and told.stderr == f"Error: no service runs on {two}\\n", told
assert other.poll() is None, "SIGUSR2 would have ended it"
other.kill()
other.wait()
print("done")
"""


def test_a_lock_of_another_device_is_not_ours_whatever_its_number(tmp_path: Path) -> None:
    try:
        have_namespaces = subprocess.run([*TWO_DEVICES, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        have_namespaces = False
    if not have_namespaces:
        pytest.skip("this machine lets us make no namespaces (unshare): without them we cannot mount a second device")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    command = [*TWO_DEVICES, MOUNTED, str(tmp_path), sys.executable, "-c", PROGRAM, str(tmp_path), HOLD]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "done\n"), ran.stderr
