"""The token of a state directory: who makes it, and whose file is believed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from mooring_api.rest.access import TokenFileError, load_token


def test_a_token_file_that_others_could_have_put_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("planted\n")
    (tmp_path / "token").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenFileError):
        load_token(tmp_path)
    (tmp_path / "token").unlink()
    token = load_token(tmp_path)
    assert len(token) >= 32 and load_token(tmp_path) == token
    assert (tmp_path / "token").stat().st_mode & 0o777 == 0o600
    (tmp_path / "token").chmod(0o644)
    with pytest.raises(TokenFileError):
        load_token(tmp_path)


def test_those_who_make_the_token_at_the_same_time_have_the_same_one(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as several:
        for number in range(100):
            folder = tmp_path / str(number)
            folder.mkdir()
            at_once = Barrier(4)

            def load(folder: Path = folder, at_once: Barrier = at_once) -> str:
                at_once.wait(60)
                return load_token(folder)

            assert len({made.result() for made in [several.submit(load) for _ in range(4)]}) == 1
            assert [path.name for path in folder.iterdir()] == ["token"]
