"""Runs per hour: counted by user, given back after the hour, and a reason with a time."""

import pytest

from appliance.errors import RateLimited
from appliance.services.sandbox.run_quota import RunQuota


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_take_when_the_hour_is_used_up_then_refused_until_its_end() -> None:
    clock = Clock()
    quota = RunQuota(clock)
    quota.take(1, 2)
    clock.now = 600.0
    quota.take(1, 2)

    with pytest.raises(RateLimited, match="at most 2 runs") as refused:
        quota.take(1, 2)

    assert refused.value.retry_after == 3000
    quota.take(2, 2)  # another user's hour is another's
    clock.now = 3600.0
    quota.take(1, 2)


def test_take_when_there_is_no_limit_then_never_refused() -> None:
    quota = RunQuota()
    for _ in range(1000):
        quota.take(1, 0)


def test_take_when_the_limit_was_lowered_then_it_holds_at_once() -> None:
    quota = RunQuota()
    quota.take(1, 5)
    quota.take(1, 5)
    with pytest.raises(RateLimited):
        quota.take(1, 1)


def test_give_back_when_the_run_never_began_then_another_may() -> None:
    clock = Clock()
    quota = RunQuota(clock)
    counted = quota.take(1, 1)
    counted.give_back()
    late = quota.take(1, 1)

    clock.now = 3600.0
    quota.take(1, 1)
    late.give_back()  # of the hour before

    with pytest.raises(RateLimited):
        quota.take(1, 1)
