"""The principal cache: expiry, invalidation, capacity."""

import math

from appliance.domain.users import Principal, Role, User
from appliance.services.accounts.principal_cache import PrincipalCache
from tests.support.accounts import Clock

NOW = 1000.0


def principal(user_id: int) -> Principal:
    user = User(user_id, f"user_{user_id}", "u", "u@x", "U", Role.DEVELOPER, False, NOW)
    return Principal(user, frozenset())


def filled(*user_ids: int, clock: Clock | None = None, capacity: int = 100) -> PrincipalCache:
    cache = PrincipalCache(capacity=capacity, ttl_s=5.0, clock=clock or Clock())
    for user_id in user_ids:
        cache.put(f"key {user_id}", principal(user_id), math.inf, cache.generation)
    return cache


def test_get_when_put_then_known_and_others_are_not() -> None:
    cache = filled(1)
    assert cache.get("key 1", NOW) == principal(1)
    assert cache.get("key 2", NOW) is None


def test_get_when_a_few_seconds_have_passed_then_asked_again() -> None:
    clock = Clock()
    cache = filled(1, clock=clock)
    clock.advance(4.9)
    assert cache.get("key 1", NOW)
    clock.advance(0.1)
    assert cache.get("key 1", NOW) is None


def test_get_when_the_credential_has_ended_then_unknown() -> None:
    cache = filled()
    cache.put("key", principal(1), NOW + 1, cache.generation)
    assert cache.get("key", NOW)
    assert cache.get("key", NOW + 1) is None


def test_invalidate_when_called_then_all_of_that_user_and_nobody_elses() -> None:
    cache = filled(1, 2)
    cache.put("another key of 1", principal(1), math.inf, cache.generation)
    cache.invalidate(1)
    assert cache.get("key 1", NOW) is None
    assert cache.get("another key of 1", NOW) is None
    assert cache.get("key 2", NOW)


def test_put_when_the_cache_was_invalidated_since_the_query_then_ignored() -> None:
    cache = filled()
    before = cache.generation
    cache.invalidate(1)
    cache.put("key 1", principal(1), math.inf, before)
    assert cache.get("key 1", NOW) is None


def test_invalidate_after_when_the_work_fails_then_still_invalidated() -> None:
    cache = filled(1)
    try:
        with cache.invalidate_after(1):
            raise OSError
    except OSError:
        assert cache.get("key 1", NOW) is None


def test_memory_when_many_credentials_come_then_bounded_and_newest_kept() -> None:
    cache = filled(*range(1000), capacity=10)
    known = [user_id for user_id in range(1000) if cache.get(f"key {user_id}", NOW)]
    assert known == list(range(990, 1000))
