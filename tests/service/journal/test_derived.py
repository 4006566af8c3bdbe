"""The tables behind the commits: what waits for them is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from mooring_service.journal.changes import Changes
from mooring_service.journal.derived import Derived
from mooring_service.journal.file import open_file
from mooring_service.journal.jobs import save_incarnation
from mooring_service.journal.retention import Marks


@pytest.fixture
def file(tmp_path: Path) -> Iterator[apsw.Connection]:
    """A journal that is open, of one incarnation."""
    connection = open_file(tmp_path / "journal.db", "process").connection
    save_incarnation("i", "main", b"", ended=False, stands=False)(connection)
    yield connection
    connection.close()


@pytest.mark.parametrize("statement", ["SELECT max(id)", "UPDATE incarnations", "UPDATE meta"])
def test_what_waits_is_written_after_a_disk_that_failed_once(file: apsw.Connection, statement: str) -> None:
    derived, left = Derived(), [statement]

    def fails_once(cursor: apsw.Cursor, sql: str, bindings: object) -> bool:
        if left and sql.startswith(left[0]):
            left.clear()
            raise apsw.IOError("disk I/O error")
        return True

    derived.take(Changes(numbers={"i": 7}), Marks(next_position=11))
    file.exec_trace = fails_once
    with pytest.raises(apsw.IOError):
        derived.write_all(file)
    derived.write_all(file)
    assert file.execute("SELECT stored FROM incarnations").get == 7
    assert file.execute("SELECT value FROM meta WHERE name = 'derived'").get == derived.upto == 10
