"""Counts connections that were ended, and logs them as security events at a bounded rate."""

from collections import Counter

from appliance import telemetry
from appliance.security_log import SecurityEvent, log_security_event
from appliance.server.connection import EndReason

_LOG_INTERVAL_S = 10.0
_MAX_ADDRESSES = 1000
_PROXY_HINT = "if this is a reverse proxy, list it in server.trusted_proxies"


class EndedConnections:
    """Logs one event per reason in ten seconds, with the address that was ended most."""

    def __init__(self) -> None:
        self._totals: Counter[EndReason] = Counter()
        self._addresses: dict[EndReason, Counter[str]] = {}
        self._logged_at = float("-inf")

    def add(self, reason: EndReason, address: str) -> None:
        telemetry.observe_connection_ended(reason.value)
        self._totals[reason] += 1
        addresses = self._addresses.setdefault(reason, Counter())
        if address in addresses or len(addresses) < _MAX_ADDRESSES:
            addresses[address] += 1

    def log(self, now: float) -> None:
        """Log what was added since the last time, unless that is less than ten seconds ago."""
        if not self._totals or now - self._logged_at < _LOG_INTERVAL_S:
            return
        self._logged_at = now
        for reason, count in self._totals.items():
            address, most = self._addresses[reason].most_common(1)[0]
            log_security_event(
                SecurityEvent.CONNECTIONS_ENDED,
                reason=reason.value,
                count=count,
                client=address,
                client_count=most,
                hint=_PROXY_HINT if reason is EndReason.ADDRESS_LIMIT else None,
            )
        self._totals.clear()
        self._addresses.clear()
