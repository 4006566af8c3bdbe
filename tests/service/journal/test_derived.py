"""The tables behind the commits: what waits for them is never lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from mooring.link.record import (
    STATUS_CONNECTED,
    STATUS_CONNECTING,
    ConnectionCreated,
    ConnectionUpdate,
)
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


def test_many_rows_reach_the_tables_in_few_executions_as_if_each_had_its_own(file: apsw.Connection) -> None:
    # Behind each execution the writer waits for the interpreter's lock, and with it every commit.
    derived, executed = Derived(), []
    old = {one: ConnectionCreated(one, f"ws://x/{one}", "main", None, "text", [], one) for one in range(1, 201)}
    new = {one: ConnectionCreated(one, f"ws://x/{one}", "main", None, "text", [], one) for one in range(201, 401)}
    update = {one: ConnectionUpdate(one, STATUS_CONNECTED) for one in (*old, *new)}
    derived.take(Changes({one: (old[one], "i") for one in old}, {one: (update[one], one) for one in old}), Marks())
    derived.write_all(file)
    # Of every third of those that are there the last event is as it was; of every second of the new ones nothing is told yet.
    lasts = {one: 0 if one % 3 == 0 else 1_000 + one for one in old}
    told = [one for one in new if one % 2]
    derived.take(
        Changes(
            {one: (new[one], "i") for one in new},
            {one: (update[one], lasts.get(one, 0)) for one in (*old, *told)},
            {"i": 9},
        ),
        Marks(),
    )
    file.exec_trace = lambda cursor, sql, bindings: executed.append(sql) or True
    derived.write_all(file)
    file.exec_trace = None
    found = {row[0]: row for row in file.execute("SELECT * FROM connections")}
    assert list(found) == [*old, *new]
    assert {one: found[one][4] for one in old} == {one: last or one for one, last in lasts.items()}
    for one, created in (old | new).items():
        assert msgspec.msgpack.decode(found[one][1], type=ConnectionCreated) == created
        status = STATUS_CONNECTING if one in new and one not in told else STATUS_CONNECTED
        assert msgspec.msgpack.decode(found[one][2], type=ConnectionUpdate).status == status
        assert found[one][3] == "i"
    rows = [sql for sql in executed if "connections" in sql]
    assert 8 <= len(rows) < 20, rows


class _Opened(apsw.VFS):
    """The file system, which notes what is opened."""

    def __init__(self) -> None:
        super().__init__("noting", "", makedefault=True)
        self.flags: list[int] = []

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        self.flags.append(flags[0])
        return super().xOpen(name, flags)


def test_the_tables_need_no_file_beside_the_journal(tmp_path: Path) -> None:
    # In the folder for temporary files may be no room, and a start has to go on without any.
    opened = _Opened()
    try:
        file = open_file(tmp_path / "journal.db", "process").connection
        derived = Derived()
        many = {
            one: ConnectionCreated(one, "ws://x/" + "y" * 900, "main", None, "text", [], one) for one in range(1_000)
        }
        derived.take(Changes({one: (many[one], "i") for one in many}), Marks())
        derived.write_all(file)
        opened.flags.clear()
        # Each of them is in another page.
        derived.take(
            Changes({}, {one: (ConnectionUpdate(one, STATUS_CONNECTED), 0) for one in range(0, 1_000, 10)}), Marks()
        )
        derived.write_all(file)
        file.close()
    finally:
        opened.unregister()
    assert opened.flags == []
