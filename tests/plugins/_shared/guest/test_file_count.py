"""Counting files below a folder, up to a limit."""

import os
from pathlib import Path

import pytest

from plugins._shared.guest import file_count


def test_files_are_counted_below_a_folder_without_following_links(tmp_path: Path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)

    assert file_count.contains_more_than(str(tmp_path), 3)
    assert not file_count.contains_more_than(str(tmp_path), 4)
    assert not file_count.contains_more_than(str(tmp_path / "none"), 0)


def test_files_below_a_path_that_is_too_long_are_not_overlooked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("x" * 250)  # noqa: PTH102
        os.chdir("x" * 250)
    (Path() / "file").write_bytes(b"")

    assert file_count.contains_more_than(str(tmp_path), 1000)
