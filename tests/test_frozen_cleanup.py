"""Folders that killed executables have left are removed, and no others."""

import os
from pathlib import Path

import pytest

from appliance import frozen_cleanup

GONE = "_MEI7fffffffAbc123"  # no process has such a number


def make(place: Path, name: str, *, marked: bool = True) -> Path:
    folder = place / name
    (folder / "lib").mkdir(parents=True)
    (folder / "lib" / "large.so").write_bytes(b"x")
    if marked:
        (folder / ".monkey-coder").touch()
    return folder


def test_folder_when_its_process_is_gone_then_removed(tmp_path: Path) -> None:
    folder = make(tmp_path, GONE)

    assert frozen_cleanup.remove_abandoned(tmp_path) == [folder]
    assert not folder.exists()


@pytest.mark.parametrize(
    ("name", "marked"),
    [
        (f"_MEI{os.getpid():08x}Abc123", True),
        (GONE, False),
        ("_MEIxyz", True),
        ("_MEI7fffffffAbc1234", True),
        ("other", True),
    ],
    ids=["it lives", "another program's", "another name", "a longer name", "no such folder"],
)
def test_folder_when_it_may_be_in_use_or_of_another_program_then_kept(
    name: str, marked: bool, tmp_path: Path
) -> None:
    folder = make(tmp_path, name, marked=marked)

    assert frozen_cleanup.remove_abandoned(tmp_path) == []
    assert folder.exists()


def test_folder_when_marked_in_use_then_kept_until_the_mark_is_released(tmp_path: Path) -> None:
    folder = make(tmp_path, GONE, marked=False)
    with frozen_cleanup.mark_in_use(folder):
        assert frozen_cleanup.remove_abandoned(tmp_path) == []

    assert frozen_cleanup.remove_abandoned(tmp_path) == [folder]


def test_link_when_it_is_named_like_an_unpacked_folder_then_not_followed(tmp_path: Path) -> None:
    elsewhere = make(tmp_path, "elsewhere")
    (tmp_path / GONE).symlink_to(elsewhere)

    assert frozen_cleanup.remove_abandoned(tmp_path) == []
    assert (elsewhere / "lib" / "large.so").exists()


def test_folder_when_no_mark_can_be_made_then_it_is_used_and_never_removed(tmp_path: Path) -> None:
    folder = make(tmp_path, GONE, marked=False)
    (folder / ".monkey-coder").mkdir()

    with frozen_cleanup.mark_in_use(folder):
        pass

    assert frozen_cleanup.remove_abandoned(tmp_path) == []
