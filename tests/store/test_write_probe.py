"""The write probe on real files: a full disk, a lock, a deleted or read-only database."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from appliance.store.sqlite.database import Database
from appliance.store.sqlite.write_probe import WriteProbe, check_store
from tests.support.polling import until

_ON_A_SMALL_DISK = """
import asyncio, sys
from pathlib import Path
from appliance.store.sqlite.database import Database
from appliance.store.sqlite.write_probe import check_store

path = Path(sys.argv[1]) / "db"
asyncio.run(Database.open(path))
print(repr(check_store(path, write=True)))
filler = path.with_name("filler")
filler.write_bytes(bytes(14 * 2**20))
print(repr(check_store(path, write=False)))
filler.unlink()
print(repr(check_store(path, write=True)))
sys.stdout.flush()
import os
os._exit(0)
"""


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    path = tmp_path / "db"
    db = await Database.open(path)
    await db.close()
    return path


def test_check_when_all_is_well_then_no_problem_and_one_row(path: Path) -> None:
    assert [check_store(path, write=True) for _ in range(3)] == ["", "", ""]
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM write_probe").fetchone() == (1,)


def test_check_when_the_disk_is_full_then_told_until_space_is_free(tmp_path: Path) -> None:
    mount = f'mount -t tmpfs -o size=16m t "{tmp_path}" && exec "$@"'
    program = [sys.executable, "-c", _ON_A_SMALL_DISK, str(tmp_path)]
    words = ["unshare", "-rm", "sh", "-c", mount, "sh", *program]
    printed = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert printed.returncode == 0, printed.stderr
    before, full, after = printed.stdout.splitlines()
    assert before == after == "''"
    assert "the disk is full" in full
    assert "free some space" in full


def test_check_when_the_write_lock_is_held_then_told(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert "another program has it locked" in check_store(path, write=False)
    assert check_store(path, write=False) == ""


def test_check_when_the_database_is_deleted_then_told_and_not_created_anew(path: Path) -> None:
    path.unlink()
    assert "can't be opened" in check_store(path, write=True)
    assert not path.exists()


async def test_probe_when_the_lock_comes_and_goes_then_the_problem_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.store.sqlite.write_probe.CHECK_INTERVAL_S", 0.01)
    probe = WriteProbe(path)
    probe.start()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        await until(lambda: "locked" in probe.problem)
    await until(lambda: probe.problem == "")
    await probe.close()
