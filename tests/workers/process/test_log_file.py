"""How a worker's log is rotated."""

from __future__ import annotations

from pathlib import Path

from mooring.process.log_file import rotate


def test_the_end_of_each_log_is_kept_up_to_the_bound_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "a.b.log"
    with path.open("ab") as printing:
        for number in range(4):
            printing.write(b"-" * 1_000 + b"%d" % number)
            printing.flush()
            rotate(path, 100, 2)
            assert path.stat().st_size == 0, "whoever appends goes on at the start"
    kept = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    assert kept == {"a.b.log": b"", "a.b.log.1": b"-" * 99 + b"3", "a.b.log.2": b"-" * 99 + b"2"}
    assert (tmp_path / "a.b.log.1").stat().st_mode & 0o777 == 0o600
