"""Caches the principal of a credential for a few seconds, to save a query per request."""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec import Struct

from appliance.domain.users import Principal

_CAPACITY = 4096
# How late this process may notice a change made by another one (`monkey-coder user
# disable` beside a running server). Its own changes take effect at once.
_TTL_S = 5.0


class _Entry(Struct, frozen=True):
    principal: Principal
    ends_at: float
    stale_at: float


class PrincipalCache:
    """Principals by the hash of their credential; the credential itself is not kept."""

    def __init__(
        self,
        *,
        capacity: int = _CAPACITY,
        ttl_s: float = _TTL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._capacity = capacity
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._generation = 0

    @property
    def generation(self) -> int:
        """Changes with every `invalidate`; read it before the query whose result is `put`."""
        return self._generation

    def get(self, key: str, now: float) -> Principal | None:
        """The cached principal, if its credential is valid at `now` (epoch seconds)."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now < entry.ends_at and self._clock() < entry.stale_at:
            return entry.principal
        del self._entries[key]
        return None

    def put(self, key: str, principal: Principal, ends_at: float, generation: int) -> None:
        """Cache a principal until `ends_at` (epoch seconds) at the latest.

        Does nothing if `invalidate` was called since `generation`: the query may have read
        a credential that has been revoked since.
        """
        if generation != self._generation:
            return
        self._entries[key] = _Entry(principal, ends_at, self._clock() + self._ttl_s)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    @contextmanager
    def invalidate_after(self, user_id: int) -> Generator[None, None, None]:
        """Wrap a transaction that removes permissions of a user; invalidates even if it fails."""
        try:
            yield
        finally:
            self.invalidate(user_id)

    def invalidate(self, user_id: int) -> None:
        """Remove every credential of a user."""
        self._generation += 1
        keys = [key for key, entry in self._entries.items() if entry.principal.user.id == user_id]
        for key in keys:
            del self._entries[key]
