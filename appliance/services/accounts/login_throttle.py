"""Limits how often a password can be guessed, per account and per address."""

import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from appliance.errors import RateLimited

_CAPACITY = 10_000
_IPV6_SITE_BITS = 64


class LoginThrottle:
    """Counts failed logins over a sliding window. In memory; a restart forgets.

    `check` belongs before the password is looked at and again after it, in the same
    step as `failed` or `succeeded`: then guesses that run at the same time get no more
    answers than guesses one after the other.
    """

    def __init__(
        self,
        *,
        per_account: int,
        per_address: int,
        window_s: float,
        capacity: int = _CAPACITY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._accounts = _Failures(per_account, window_s, capacity)
        self._addresses = _Failures(per_address, window_s, capacity)
        self._clock = clock

    def check(self, account: str, address: str) -> None:
        """Raises RateLimited, with the seconds until the next try, if there were too many."""
        now = self._clock()
        _refuse("for this account", self._accounts.wait_s(account, now))
        _refuse("from this address", self._addresses.wait_s(_source(address), now))

    def failed(self, account: str, address: str) -> None:
        now = self._clock()
        self._accounts.add(account, now)
        self._addresses.add(_source(address), now)

    def succeeded(self, account: str) -> None:
        """Forget the account's failures; those of the address stay."""
        self._accounts.forget(account)


class _Failures:
    """The times of the latest failures by key: at most `limit` each, `capacity` keys."""

    def __init__(self, limit: int, window_s: float, capacity: int) -> None:
        self._limit = limit
        self._window_s = window_s
        self._capacity = capacity
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def add(self, key: str, now: float) -> None:
        times = self._times.setdefault(key, deque(maxlen=self._limit))
        times.append(now)
        self._times.move_to_end(key)
        # The key that failed longest ago goes first: most likely it is out of its window.
        while len(self._times) > self._capacity:
            self._times.popitem(last=False)

    def forget(self, key: str) -> None:
        self._times.pop(key, None)

    def wait_s(self, key: str, now: float) -> float:
        """How long until the next try is allowed; 0 if it is."""
        times = self._times.get(key)
        if not times or len(times) < self._limit:
            return 0.0
        return max(0.0, times[0] + self._window_s - now)


def _refuse(whose: str, wait_s: float) -> None:
    if wait_s > 0:
        seconds = math.ceil(wait_s)
        raise RateLimited(
            f"too many failed logins {whose}; try again in {seconds} s", retry_after=seconds
        )


def _source(address: str) -> str:
    """What counts as one address: an IPv6 customer has a whole /64 to choose from."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((int(ip), _IPV6_SITE_BITS), strict=False))
