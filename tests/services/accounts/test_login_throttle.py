"""The login throttle: limits, sliding window, capacity."""

import pytest

from appliance.errors import RateLimited
from appliance.services.accounts.login_throttle import LoginThrottle
from tests.support.accounts import Clock

HERE, THERE = "192.0.2.1", "192.0.2.2"


def throttle(clock: Clock, *, account: int = 3, address: int = 5, capacity: int = 100):
    return LoginThrottle(
        per_account=account, per_address=address, window_s=60.0, capacity=capacity, clock=clock
    )


def fail(limits: LoginThrottle, account: str, address: str, times: int) -> None:
    for _ in range(times):
        limits.check(account, address)
        limits.record_failure(account, address)


def test_account_when_failed_too_often_then_limited_from_everywhere() -> None:
    limits = throttle(Clock())
    fail(limits, "alice", HERE, 3)
    for address in (HERE, THERE):
        with pytest.raises(RateLimited, match="account"):
            limits.check("alice", address)


def test_account_when_limited_then_others_are_not() -> None:
    limits = throttle(Clock())
    fail(limits, "alice", HERE, 3)
    limits.check("bob", HERE)


def test_address_when_it_tries_many_accounts_then_limited() -> None:
    limits = throttle(Clock())
    for name in "abcde":
        fail(limits, name, HERE, 1)
    with pytest.raises(RateLimited, match="address"):
        limits.check("f", HERE)
    limits.check("f", THERE)


def test_wait_when_limited_then_retry_after_is_the_wait() -> None:
    clock = Clock()
    limits = throttle(clock)
    fail(limits, "alice", HERE, 1)
    clock.advance(20.5)
    fail(limits, "alice", HERE, 2)
    with pytest.raises(RateLimited) as limited:
        limits.check("alice", HERE)
    assert limited.value.retry_after == 40
    clock.advance(39.4)
    with pytest.raises(RateLimited):
        limits.check("alice", HERE)
    clock.advance(0.1)
    limits.check("alice", HERE)


def test_window_when_it_slides_then_each_failure_counts_for_its_own_time() -> None:
    clock = Clock()
    limits = throttle(clock)
    for _ in range(10):
        fail(limits, "alice", HERE, 1)
        clock.advance(30)
    limits.check("alice", HERE)


def test_success_when_it_comes_then_account_starts_anew_and_address_does_not() -> None:
    limits = throttle(Clock())
    fail(limits, "alice", HERE, 2)
    limits.record_success("alice")
    fail(limits, "alice", HERE, 2)
    fail(limits, "bob", HERE, 1)
    with pytest.raises(RateLimited, match="address"):
        limits.check("alice", HERE)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "", True),
        ("not an address", "not an address", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_address_when_written_in_another_form_then_counted_as_what_it_is(
    first: str, second: str, same: bool
) -> None:
    limits = throttle(Clock(), address=1)
    limits.record_failure("a", first)
    if same:
        with pytest.raises(RateLimited):
            limits.check("b", second)
    else:
        limits.check("b", second)


def test_memory_when_flooded_with_names_then_bounded_and_newest_kept() -> None:
    limits = throttle(Clock(), account=1, address=10**6, capacity=10)
    for index in range(1000):
        limits.record_failure(f"name {index}", HERE)
    limits.check("name 989", HERE)
    for index in range(990, 1000):
        with pytest.raises(RateLimited):
            limits.check(f"name {index}", HERE)
