"""Rate windows: exact under concurrency, sliding, and in the database beyond a minute."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.rate_policy import RateLimit
from appliance.services.rate_window import MemoryRateWindow, RateWindows
from appliance.store.sqlite.database import Database


class Clock:
    now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def open_windows(
    folder: Path, clock: Callable[[], float] = time.time
) -> AsyncGenerator[RateWindows, None]:
    db = await Database.open(folder / "windows.db")
    try:
        yield RateWindows(db, clock)
    finally:
        await db.close()


@pytest.fixture
async def windows(tmp_path: Path) -> AsyncGenerator[RateWindows, None]:
    async with open_windows(tmp_path) as windows:
        yield windows


@pytest.mark.parametrize("window_s", [60.0, 3600.0])
async def test_take_when_200_come_at_once_then_exactly_the_limit_is_counted(
    windows: RateWindows, window_s: float
) -> None:
    window, limit = windows.open("requests", window_s), RateLimit(50, window_s)
    decisions = await asyncio.gather(*(window.take("a", limit) for _ in range(200)))
    counted = [each for each in decisions if each.counted]
    assert sorted(each.remaining for each in counted) == list(range(50))
    assert all(each.wait_s > 0 for each in decisions if not each.counted)
    assert (await window.take("b", limit)).counted
    await window.give_back("a", counted[7])
    assert (await window.take("a", limit)).counted
    assert not (await window.take("a", limit)).counted


@pytest.mark.parametrize(("window_s", "survives"), [(60.0, False), (60.5, True)])
async def test_open_when_the_server_starts_again_then_windows_above_a_minute_go_on(
    tmp_path: Path, window_s: float, survives: bool
) -> None:
    limit = RateLimit(1, window_s)
    async with open_windows(tmp_path) as windows:
        assert (await windows.open("requests", window_s).take("a", limit)).counted
    async with open_windows(tmp_path) as windows:
        again = await windows.open("requests", window_s).take("a", limit)
    assert again.counted is not survives


@pytest.mark.parametrize("window_s", [60.0, 3600.0])
async def test_take_when_the_clock_was_set_back_then_later_events_do_not_count(
    tmp_path: Path, window_s: float
) -> None:
    clock, limit = Clock(), RateLimit(1, window_s)
    async with open_windows(tmp_path, clock) as windows:
        window = windows.open("requests", window_s)
        assert (await window.take("a", limit)).counted
        clock.now -= 86400.0
        assert (await window.take("a", limit)).counted
        assert (await window.take("a", limit)).wait_s == window_s


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    limit=st.sampled_from([1, 3, 10, 128, 129, 150]),
    pauses=st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0, 7.0, 59.9, 60.0]), max_size=30),
    at_once=st.integers(1, 80),
)
def test_window_when_events_come_at_any_times_then_no_minute_has_more_than_the_limit(
    limit: int, pauses: list[float], at_once: int
) -> None:
    """And one is refused only if the limit is reached, but for 1/128 of the window."""
    clock = Clock()
    window, counted = MemoryRateWindow(60.0, clock), list[float]()

    async def run() -> None:
        for pause in (*pauses, 0.0):
            clock.now += pause
            for _ in range(at_once):
                decision = await window.take("a", RateLimit(limit, 60.0))
                recent = sum(at > clock.now - 60.0 for at in counted)
                if decision.counted:
                    counted.append(clock.now)
                    assert recent < limit
                    assert decision.remaining <= limit - recent - 1
                else:
                    held = sum(at > clock.now - 60.0 - 60.0 / 128 for at in counted)
                    assert (recent if limit <= 128 else held) >= limit

    asyncio.run(run())


async def test_take_when_the_limit_was_lowered_then_the_wait_is_until_enough_have_left() -> None:
    clock = Clock()
    window = MemoryRateWindow(60.0, clock)
    for _ in range(5):
        await window.take("a", RateLimit(5, 60.0))
        clock.now += 1.0
    assert (await window.take("a", RateLimit(2, 60.0))).wait_s == 58.0


async def test_memory_when_many_keys_come_then_only_the_latest_are_kept() -> None:
    window, limit = MemoryRateWindow(60.0, max_keys=2), RateLimit(1, 60.0)
    for key, counted in (("a", True), ("b", True), ("a", False), ("c", True), ("a", False),
                         ("b", True)):  # fmt: skip
        assert (await window.take(key, limit)).counted is counted
