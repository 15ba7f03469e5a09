"""Remembers for a few seconds whom a credential belongs to, so that a request needs no query."""

import time
from collections import OrderedDict
from collections.abc import Callable, Generator
from contextlib import contextmanager

from msgspec import Struct

from appliance.domain.users import Principal

_CAPACITY = 4096
# How late this process may notice a change that another one made (`monkey-coder user
# disable` beside a running box). Changes of its own take effect at once.
_TTL_S = 5.0


class _Entry(Struct, frozen=True):
    principal: Principal
    ends_at: float
    stale_at: float


class AuthCache:
    """Principals by credential. The keys are hashes, never the credential."""

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
        """Changes with every `forget`; take it before the query whose answer is `put`."""
        return self._generation

    def get(self, key: str, now: float) -> Principal | None:
        """The principal, if it is known and its credential still runs at `now` (epoch)."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now < entry.ends_at and self._clock() < entry.stale_at:
            return entry.principal
        del self._entries[key]
        return None

    def put(self, key: str, principal: Principal, ends_at: float, generation: int) -> None:
        """Remember a principal until `ends_at` (epoch seconds) at the latest.

        Ignored if anything was forgotten since `generation`: what was read then may be
        what was just revoked.
        """
        if generation != self._generation:
            return
        self._entries[key] = _Entry(principal, ends_at, self._clock() + self._ttl_s)
        self._entries.move_to_end(key)
        while len(self._entries) > self._capacity:
            self._entries.popitem(last=False)

    @contextmanager
    def forgetting(self, user_id: int) -> Generator[None, None, None]:
        """Wraps the transaction that takes rights from a user: however it ends, forget them."""
        try:
            yield
        finally:
            self.forget(user_id)

    def forget(self, user_id: int) -> None:
        """Forget every credential of a user."""
        self._generation += 1
        theirs = [key for key, entry in self._entries.items() if entry.principal.user.id == user_id]
        for key in theirs:
            del self._entries[key]
