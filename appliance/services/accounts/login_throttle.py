"""Delays logins after failures, to slow down password guessing without locking anybody out.

Failures within a sliding window are counted three times: for the account at one network (an
IPv4 address or an IPv6 /64), for the account everywhere, and for the network. Above a limit
each further attempt has to wait since the last failure: 1 s, 2 s, 4 s and so on, up to
`max_delay_s`. For networks from which the user has logged in before, only the first count
applies, and its delay stays below KNOWN_MAX_DELAY_S: guesses from elsewhere do not affect
them, and those who share such a network with the user can't keep the user out.
"""

import math
from collections.abc import Callable

from msgspec import Struct

from appliance.config.settings import AuthSettings
from appliance.domain.addresses import client_network
from appliance.errors import RateLimited
from appliance.services.accounts.proxy_hint import ProxyHint
from appliance.services.rate_window import StoredRateWindow
from appliance.store.database import Connection, Database, Transaction
from appliance.store.tables import login_networks
from appliance.store.tables.rate_events import EventCount

KNOWN_MAX_DELAY_S = 2.0
_KNOWN_NETWORKS = 50
_KNOWN_NETWORK_RETENTION_S = 180 * 86400.0
# 2.0 ** 1024 overflows.
_MAX_DOUBLINGS = 64


class LoginAttempt(Struct, frozen=True):
    """`user_id` is None for an unknown user; `identifier` is what was sent, in canonical form."""

    user_id: int | None
    identifier: str
    address: str

    @property
    def account(self) -> str:
        return f"name {self.identifier}" if self.user_id is None else f"user {self.user_id}"

    @property
    def network(self) -> str:
        return client_network(self.address)

    @property
    def account_at_network(self) -> str:
        return f"{self.account} at {self.network}"


class LoginThrottle:
    """Call `check` before verifying the password, then `record_failure` or `record_success`.

    These check again in their transaction: concurrent guesses get no more answers than
    sequential ones.
    """

    def __init__(self, db: Database, settings: AuthSettings, clock: Callable[[], float]) -> None:
        self._db = db
        self._settings = settings
        self._clock = clock
        window_s = settings.login_window_s
        self._at_network = StoredRateWindow("login account at network", window_s, clock, db)
        self._everywhere = StoredRateWindow("login account", window_s, clock, db)
        self._of_network = StoredRateWindow("login network", window_s, clock, db)
        self._proxy_hint = ProxyHint()

    async def check(self, attempt: LoginAttempt) -> None:
        """Raises RateLimited, with the seconds until the next attempt."""
        async with self._db.read() as connection:
            await self._require_no_wait(connection, attempt)

    async def record_failure(self, attempt: LoginAttempt) -> None:
        """Count a wrong password. Raises RateLimited if it must not be answered yet."""
        async with self._db.write() as tx:
            await self._require_no_wait(tx, attempt)
            await self._at_network.add(tx, attempt.account_at_network)
            await self._everywhere.add(tx, attempt.account)
            await self._of_network.add(tx, attempt.network)
        self._proxy_hint.record_failure(attempt.account, attempt.address)

    async def record_success(self, attempt: LoginAttempt, user_id: int) -> None:
        """Forget the account's failures at this network, which is known from now on.

        Raises RateLimited if the right password must not be answered yet.
        """
        async with self._db.write() as tx:
            await self._require_no_wait(tx, attempt)
            await self._at_network.reset(tx, attempt.account_at_network)
            await login_networks.remember(
                tx, user_id, attempt.network, self._clock(), keep=_KNOWN_NETWORKS
            )

    async def delete_expired(self, tx: Transaction) -> None:
        """Delete networks that users have not used for half a year."""
        await login_networks.delete_before(tx, self._clock() - _KNOWN_NETWORK_RETENTION_S)

    async def _require_no_wait(self, connection: Connection, attempt: LoginAttempt) -> None:
        settings, max_delay_s = self._settings, self._settings.login_max_delay_s
        known = await login_networks.is_known(connection, attempt.user_id, attempt.network)
        own = await self._at_network.count(connection, attempt.account_at_network)
        if known:
            max_delay_s = min(max_delay_s, KNOWN_MAX_DELAY_S)
        waits = {
            "for this account from this address": self._wait_s(
                own, settings.login_attempts_per_account, max_delay_s
            )
        }
        if not known:
            everywhere = await self._everywhere.count(connection, attempt.account)
            of_network = await self._of_network.count(connection, attempt.network)
            waits["for this account"] = self._wait_s(
                everywhere, settings.login_attempts_everywhere, max_delay_s
            )
            waits["from this address"] = self._wait_s(
                of_network, settings.login_attempts_per_address, max_delay_s
            )
        whose, wait_s = max(waits.items(), key=lambda item: item[1])
        if wait_s > 0:
            seconds = math.ceil(wait_s)
            raise RateLimited(
                f"too many failed logins {whose}; try again in {seconds} s", retry_after=seconds
            )

    def _wait_s(self, failures: EventCount, limit: int, max_delay_s: float) -> float:
        """Seconds until the next attempt; 0 or less if it may come now."""
        if failures.newest_at is None or failures.count < limit:
            return 0.0
        delay_s = min(max_delay_s, 2.0 ** min(failures.count - limit, _MAX_DOUBLINGS))
        return failures.newest_at + delay_s - self._clock()
