"""Rate limits of requests: the default row of the policy, rows of plans, keys of callers."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from appliance.api.http.rate_limit import (
    RateLimiter,
    RateStatus,
    TooManyRequests,
    address_key,
    build_policy,
)
from appliance.config.settings import LimitSettings
from appliance.domain.rate_policy import EVERYTHING, RateLimit, RatePolicy, RateScope
from appliance.services.rate_window import RateWindows
from appliance.store.sqlite.database import Database


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def windows(tmp_path: Path, clock: Clock) -> AsyncGenerator[RateWindows, None]:
    db = await Database.open(tmp_path / "windows.db")
    yield RateWindows(db, clock)
    await db.close()


def limiter(windows: RateWindows, per_minute: int, burst: int) -> RateLimiter:
    settings = LimitSettings(requests_per_minute=per_minute, burst=burst)
    return RateLimiter(build_policy(settings), windows)


async def test_window_when_spent_then_refused_until_the_oldest_request_leaves_it(
    windows: RateWindows, clock: Clock
) -> None:
    limits = limiter(windows, per_minute=60, burst=60)
    assert await limits.take("a") == RateStatus(60, 59, 1_000_060)
    clock.now += 20
    for left in range(58, -1, -1):
        assert await limits.take("a") == RateStatus(60, left, 1_000_060)
    with pytest.raises(TooManyRequests, match="at most 60 per minute and 60 at once") as caught:
        await limits.take("a")
    assert caught.value.retry_after == 40
    assert caught.value.status == RateStatus(60, 0, 1_000_060)
    clock.now += 40
    assert await limits.take("a") == RateStatus(60, 0, 1_000_080)
    with pytest.raises(TooManyRequests):
        await limits.take("a")


async def test_burst_when_spent_then_refills_at_the_rate_of_the_window(
    windows: RateWindows, clock: Clock
) -> None:
    limits = limiter(windows, per_minute=60, burst=2)
    for pause, allowed in ((0, 2), (1, 1), (30, 2)):
        clock.now += pause
        for _ in range(allowed):
            await limits.take("a")
        with pytest.raises(TooManyRequests) as caught:
            await limits.take("a")
        assert caught.value.retry_after == 1


async def test_callers_when_one_is_refused_then_others_are_not(windows: RateWindows) -> None:
    limits = limiter(windows, per_minute=1, burst=1)
    await limits.take("a")
    with pytest.raises(TooManyRequests):
        await limits.take("a")
    assert (await limits.take("b")).remaining == 0


async def test_peek_when_asked_then_nothing_is_counted(windows: RateWindows, clock: Clock) -> None:
    limits = limiter(windows, per_minute=5, burst=5)
    assert limits.peek("a") == RateStatus(5, 5, 1_000_060)
    await limits.take("a")
    assert limits.peek("a") == limits.peek("a") == RateStatus(5, 4, 1_000_060)
    clock.now += 60
    assert limits.peek("a") == RateStatus(5, 5, 1_000_120)


async def test_clock_when_set_back_then_a_new_window_begins(
    windows: RateWindows, clock: Clock
) -> None:
    limits = limiter(windows, per_minute=2, burst=2)
    await limits.take("a")
    clock.now -= 10_000
    assert await limits.take("a") == RateStatus(2, 1, 990_060)


async def test_policy_when_it_has_rows_then_the_most_specific_one_counts_by_itself(
    windows: RateWindows, clock: Clock
) -> None:
    minute, day = RateLimit(3, 60.0), RateLimit(2, 86400.0)
    policy = RatePolicy(
        {
            EVERYTHING: (RateLimit(9, 60.0),),
            RateScope("free"): (minute, day),
            RateScope("free", "openai", "model"): (RateLimit(1, 60.0),),
            RateScope(dialect="openai"): (),
        }
    )
    limits = RateLimiter(policy, windows)
    assert (await limits.take("a", plan="pro", dialect="monkey")).limit == 9
    assert (await limits.take("a", plan="pro", dialect="openai")).limit == 0
    assert (await limits.take("a", plan="free", dialect="openai", route_class="model")).limit == 1
    assert (await limits.take("a", plan="free", dialect="openai")) == RateStatus(2, 1, 1_086_400)
    assert (await limits.take("a", plan="free")).remaining == 0
    for _ in range(5):
        with pytest.raises(TooManyRequests, match="at most 2 per day"):
            await limits.take("a", plan="free")
    clock.now += 86400.0
    assert (await limits.take("a", plan="free")).remaining == 1


def test_policy_when_it_has_no_row_for_everything_then_refused() -> None:
    with pytest.raises(ValueError, match="no row for everything"):
        RatePolicy({RateScope("free"): ()})


def test_address_when_of_one_ipv6_network_then_one_caller() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:1")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")
    assert address_key("192.0.2.1") != address_key("192.0.2.2")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")
    assert address_key("") == "address:"
