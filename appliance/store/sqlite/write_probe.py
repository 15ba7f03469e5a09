"""Finds out in the background whether the database can be written."""

import asyncio
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import structlog

from appliance.store.sqlite import failures

CHECK_INTERVAL_S = 2.5
_CHECKS_PER_WRITE = 2
_LOCK_WAIT_S = 1.0
_TIMEOUT_S = 2.0
# SQLite writes into the free part of its log, so a small write can succeed on a full disk.
_MIN_FREE_BYTES = 8 * 1024 * 1024
_KIB = 1024

log = structlog.get_logger()


class WriteProbe:
    """Checks free space and the write lock every CHECK_INTERVAL_S, and writes a row every second
    time. `problem` is the result of the last check; it costs no query.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._problem = ""
        self._loop: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str:
        """Why nothing can be stored, and the remedy; "" if the last check succeeded."""
        return self._problem

    def start(self) -> None:
        """Check now and periodically until `close`."""
        self._loop = asyncio.create_task(self._run(), name="write probe")

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.wait({self._loop})
            self._loop = None

    async def _run(self) -> None:
        checks = 0
        while True:
            write = checks % _CHECKS_PER_WRITE == 0
            check = asyncio.ensure_future(asyncio.to_thread(check_store, self._path, write=write))
            done, _ = await asyncio.wait({check}, timeout=_TIMEOUT_S)
            if not done:
                self._record(f"the disk did not answer within {_TIMEOUT_S:g} s; check it")
            self._record(await check)
            checks += 1
            await asyncio.sleep(CHECK_INTERVAL_S)

    def _record(self, problem: str) -> None:
        if problem and not self._problem:
            log.error("nothing can be stored", problem=problem)
        elif self._problem and not problem:
            log.info("the database can be written again")
        self._problem = problem


def check_store(path: Path, *, write: bool) -> str:
    """Why the database at `path` can't be written, "" if it can; blocks.

    Takes the write lock, and with `write` also commits a row.
    """
    try:
        free = shutil.disk_usage(path.parent).free
        if free < _MIN_FREE_BYTES:
            return (
                f"the disk is full: {free // _KIB} KiB of the {_MIN_FREE_BYTES // _KIB} KiB that "
                "the database needs are free; free some space"
            )
        _lock_or_write(path, write=write)
    except sqlite3.Error as error:
        return failures.describe_write_failure(error)
    except OSError as error:
        return f"the folder of the database can't be read ({error.strerror}); check the disk"
    return ""


def _lock_or_write(path: Path, *, write: bool) -> None:
    # mode=rw: a database that was deleted must not be created anew.
    address = f"{path.absolute().as_uri()}?mode=rw"
    with closing(
        sqlite3.connect(address, uri=True, isolation_level=None, timeout=_LOCK_WAIT_S)
    ) as connection:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        if write:
            connection.execute(
                "INSERT INTO write_probe (id, at) VALUES (1, :now) "
                "ON CONFLICT (id) DO UPDATE SET at = excluded.at",
                {"now": time.time()},
            )
        connection.execute("COMMIT" if write else "ROLLBACK")
