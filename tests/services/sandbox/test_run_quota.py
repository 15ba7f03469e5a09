"""Runs per hour: counted per user in a fixed window, released if a run never starts."""

import pytest

from appliance.errors import RateLimited
from appliance.services.sandbox.run_quota import RunQuota


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_count_run_when_the_hour_is_used_up_then_refused_until_its_end() -> None:
    clock = Clock()
    quota = RunQuota(clock)
    quota.count_run(1, 2)
    clock.now = 600.0
    quota.count_run(1, 2)

    with pytest.raises(RateLimited, match="limit of 2 runs") as refused:
        quota.count_run(1, 2)

    assert refused.value.retry_after == 3000
    quota.count_run(2, 2)  # windows are per user
    clock.now = 3600.0
    quota.count_run(1, 2)


def test_count_run_when_there_is_no_limit_then_never_refused() -> None:
    quota = RunQuota()
    for _ in range(1000):
        quota.count_run(1, 0)


def test_count_run_when_the_limit_was_lowered_then_it_holds_at_once() -> None:
    quota = RunQuota()
    quota.count_run(1, 5)
    quota.count_run(1, 5)
    with pytest.raises(RateLimited):
        quota.count_run(1, 1)


def test_release_when_the_run_never_started_then_another_may_start() -> None:
    clock = Clock()
    quota = RunQuota(clock)
    use = quota.count_run(1, 1)
    use.release()
    late = quota.count_run(1, 1)

    clock.now = 3600.0
    quota.count_run(1, 1)
    late.release()  # counted in the window before

    with pytest.raises(RateLimited):
        quota.count_run(1, 1)
