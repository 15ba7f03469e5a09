"""Window and burst of the rate limit, with a fake clock."""

import pytest

from appliance.api.http.rate_limit import RateLimiter, RateStatus, address_key
from appliance.config.settings import LimitSettings
from appliance.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def limiter(clock: Clock, per_minute: int, burst: int, callers: int = 100) -> RateLimiter:
    settings = LimitSettings(requests_per_minute=per_minute, burst=burst)
    return RateLimiter(settings, clock, callers)


def test_window_when_spent_then_refused_until_the_minute_is_over(clock: Clock) -> None:
    limits = limiter(clock, per_minute=60, burst=60)
    for left in range(59, -1, -1):
        assert limits.take("a") == RateStatus(60, left, 1_000_060)
    clock.now += 20
    with pytest.raises(RateLimited) as caught:
        limits.take("a")
    assert caught.value.retry_after == 40
    clock.now += 40
    assert limits.take("a") == RateStatus(60, 59, 1_000_120)


def test_burst_when_spent_then_refills_at_the_rate_of_the_window(clock: Clock) -> None:
    limits = limiter(clock, per_minute=60, burst=2)
    limits.take("a")
    limits.take("a")
    with pytest.raises(RateLimited) as caught:
        limits.take("a")
    assert caught.value.retry_after == 1
    clock.now += 1
    limits.take("a")
    with pytest.raises(RateLimited):
        limits.take("a")
    clock.now += 30
    limits.take("a")
    limits.take("a")
    with pytest.raises(RateLimited):
        limits.take("a")


def test_callers_when_one_is_refused_then_others_are_not(clock: Clock) -> None:
    limits = limiter(clock, per_minute=1, burst=1)
    limits.take("a")
    with pytest.raises(RateLimited):
        limits.take("a")
    assert limits.take("b").remaining == 0


def test_peek_when_asked_then_nothing_is_counted(clock: Clock) -> None:
    limits = limiter(clock, per_minute=5, burst=5)
    assert limits.peek("a") == RateStatus(5, 5, 1_000_060)
    limits.take("a")
    assert limits.peek("a") == limits.peek("a") == RateStatus(5, 4, 1_000_060)
    clock.now += 60
    assert limits.peek("a") == RateStatus(5, 5, 1_000_120)


def test_memory_when_many_callers_come_then_only_the_latest_are_kept(clock: Clock) -> None:
    limits = limiter(clock, per_minute=1, burst=1, callers=2)
    for caller in ("a", "b"):
        limits.take(caller)
    with pytest.raises(RateLimited):
        limits.take("a")
    limits.take("c")
    with pytest.raises(RateLimited):
        limits.take("a")
    assert limits.take("b").remaining == 0


def test_clock_when_set_back_then_a_new_window_begins(clock: Clock) -> None:
    limits = limiter(clock, per_minute=2, burst=2)
    limits.take("a")
    clock.now -= 10_000
    assert limits.take("a") == RateStatus(2, 1, 990_060)


def test_address_when_of_one_ipv6_network_then_one_caller() -> None:
    assert address_key("2001:db8::1") == address_key("2001:db8::ffff:1")
    assert address_key("2001:db8::1") != address_key("2001:db8:0:1::1")
    assert address_key("192.0.2.1") != address_key("192.0.2.2")
    assert address_key("::ffff:192.0.2.1") == address_key("192.0.2.1")
    assert address_key("") == "address:"
