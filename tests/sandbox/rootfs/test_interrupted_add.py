"""Adding a root file system: interrupted, concurrent, on a full disk, beyond a limit."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.errors import Conflict, InvalidInput, SetupError
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits
from tests.support.rootfs import (
    MIB,
    ignore_progress,
    open_store,
    remaining_names,
    tar_of,
)


def test_add_when_killed_midway_then_nothing_shows_and_the_next_clears_up(
    root: Path, data: Path, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    shutil.copytree(root, big, symlinks=True)
    for number in range(40):
        (big / "usr" / f"block-{number}").write_bytes(os.urandom(1 * MIB))
    data.mkdir(mode=0o700)
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.support.rootfs import open_store, ignore_progress\n"
        "open_store(Path(sys.argv[1])).add(Path(sys.argv[2]), 'big', '', ignore_progress)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(data), str(big)])
    deadline = time.monotonic() + 60
    while not list(data.glob("sandbox-rootfs/.unfinished-*/tree/usr/block-1*")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [name for name in remaining_names(data) if not name.startswith(".")] == []
    assert open_store(data).list() == []
    open_store(data).add(root, None, "", ignore_progress)
    assert remaining_names(data) == {"tiny"}


def test_add_when_another_add_goes_on_then_refused_at_once(root: Path, data: Path) -> None:
    refused: list[str] = []

    def again(step: str, _done: int, _total: int | None) -> None:
        if step == "unpacking" and not refused:
            with pytest.raises(Conflict, match="another root file system") as caught:
                open_store(data).add(root, "tiny", "", ignore_progress)
            refused.append(caught.value.message)
            with pytest.raises(Conflict):
                open_store(data).remove("tiny")

    open_store(data).add(root, "tiny", "", again)
    assert len(refused) == 1
    assert remaining_names(data) == {"tiny"}


def test_add_when_interrupted_then_nothing_is_left(root: Path, data: Path) -> None:
    def interrupt(step: str, _done: int, _total: int | None) -> None:
        if step == "checking":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_store(data).add(root, None, "", interrupt)
    assert remaining_names(data) == set()


def test_add_when_the_disk_is_full_then_says_so_and_nothing_is_left(
    root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.write, 0

    def full(descriptor: int, content: bytes) -> int:
        nonlocal written
        written += len(content)
        if written > 100_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, content)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SetupError, match="No space left"):
        open_store(data).add(root, None, "", ignore_progress)
    assert remaining_names(data) == set()


def test_add_when_the_file_changes_meanwhile_then_refused(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", lambda _: None)

    def change(step: str, _done: int, _total: int | None) -> None:
        if step == "unpacking":
            os.utime(archive, (1, 1))

    with pytest.raises(InvalidInput, match="changed while it was read"):
        open_store(data).add(archive, None, "", change)
    assert remaining_names(data) == set()


@pytest.mark.parametrize(
    ("bounds", "reason"),
    [(ArchiveLimits(1 * MIB, 2000), "rootfs_mib"), (ArchiveLimits(64 * MIB, 5), "rootfs_files")],
)
def test_add_when_it_is_more_than_the_settings_allow_then_names_the_setting(
    root: Path, data: Path, tmp_path: Path, bounds: ArchiveLimits, reason: str
) -> None:
    for source in (root, tar_of(root, tmp_path / "t.tar", lambda _: None)):
        with pytest.raises(InvalidInput, match=reason):
            open_store(data, bounds).add(source, None, "", ignore_progress)
        assert remaining_names(data) == set()
