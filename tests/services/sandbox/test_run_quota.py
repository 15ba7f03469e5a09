"""Runs per hour: counted per user in a sliding window, released if a run never starts."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.errors import RateLimited
from appliance.services.sandbox.run_quota import RunQuota
from appliance.store.sqlite.database import Database


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


async def test_count_run_when_the_hour_is_used_up_then_refused_until_the_oldest_leaves_it(
    db: Database,
) -> None:
    clock = Clock()
    quota = RunQuota(db, clock)
    await quota.count_run(1, 2)
    clock.now += 600.0
    await quota.count_run(1, 2)

    with pytest.raises(RateLimited, match="limit of 2 runs") as refused:
        await quota.count_run(1, 2)

    assert refused.value.retry_after == 3000
    await quota.count_run(2, 2)  # windows are per user
    clock.now += 3000.0
    await quota.count_run(1, 2)
    with pytest.raises(RateLimited):
        await quota.count_run(1, 2)


async def test_count_run_when_there_is_no_limit_then_never_refused(db: Database) -> None:
    quota = RunQuota(db)
    for _ in range(100):
        await quota.count_run(1, 0)
    async with db.read() as connection:
        assert await connection.scalar("SELECT COUNT(*) FROM rate_events") == 0


async def test_count_run_when_the_limit_was_lowered_then_it_holds_at_once(db: Database) -> None:
    quota = RunQuota(db)
    await quota.count_run(1, 5)
    await quota.count_run(1, 5)
    with pytest.raises(RateLimited):
        await quota.count_run(1, 1)


async def test_release_when_the_run_never_started_then_another_may_start(db: Database) -> None:
    clock = Clock()
    quota = RunQuota(db, clock)
    use = await quota.count_run(1, 1)
    await use.release()
    late = await quota.count_run(1, 1)

    clock.now += 3600.0
    await quota.count_run(1, 1)
    await late.release()  # it has left the window

    with pytest.raises(RateLimited):
        await quota.count_run(1, 1)


async def test_count_run_when_cancelled_then_nothing_stays_counted(db: Database) -> None:
    quota = RunQuota(db)
    for _ in range(20):
        counting = asyncio.ensure_future(quota.count_run(1, 1))
        await asyncio.sleep(0)
        counting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await counting
    await quota.count_run(1, 1)


COUNT = """
import asyncio, sys
from pathlib import Path
from appliance.errors import RateLimited
from appliance.services.sandbox.run_quota import RunQuota
from appliance.store.sqlite.database import Database

async def main() -> None:
    db = await Database.open(Path(sys.argv[1]), exclusive=False)
    uses = [RunQuota(db).count_run(7, 10) for _ in range(int(sys.argv[2]))]
    ended = await asyncio.gather(*uses, return_exceptions=True)
    print(sum(not isinstance(each, RateLimited) for each in ended))
    await db.close()

asyncio.run(main())
"""


def _start(path: Path, runs: int) -> "subprocess.Popen[str]":
    words = [sys.executable, "-c", COUNT, str(path), str(runs)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def _counted(process: "subprocess.Popen[str]") -> int:
    with process:
        assert process.stdout
        return int(process.stdout.read())


def test_count_run_when_the_process_starts_again_then_earlier_runs_still_count(
    tmp_path: Path,
) -> None:
    path = tmp_path / "runs.db"
    assert _counted(_start(path, 6)) == 6
    assert _counted(_start(path, 6)) == 4


def test_count_run_when_two_processes_count_at_once_then_exactly_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    assert _counted(_start(path, 0)) == 0  # creates the database
    both = [_start(path, 20) for _ in range(2)]
    assert sum(_counted(each) for each in both) == 10
