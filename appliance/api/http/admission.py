"""Decides before routing whether a request is served: its Host header, and its client's others.

A client may have as many requests in progress as connections, so that one behind a trusted
proxy, whose connections are not its own, has the same limit as one that connects itself. Those over
it mostly ask again at once, so that refusals are paced.
"""

from collections.abc import Callable

from litestar.types import HTTPScope, WebSocketScope

from appliance.api.http import request_context
from appliance.api.http.pacer import Pacer
from appliance.errors import ApplianceError, InvalidInput, RateLimited

_HOST = b"host"
_RETRY_AFTER_S = 1.0
_REFUSALS_PER_S = 100
_REFUSALS_AT_ONCE = 20


class Admission:
    """Counts the requests in progress of each client. Addresses that are exempt have no limit."""

    def __init__(self, max_per_address: int, is_exempt: Callable[[str], bool]) -> None:
        self._max_per_address = max_per_address
        self._is_exempt = is_exempt
        self._in_progress: dict[str, int] = {}
        self._refusals = Pacer(_REFUSALS_PER_S, burst=_REFUSALS_AT_ONCE)

    def enter(self, scope: HTTPScope | WebSocketScope) -> ApplianceError | None:
        """Count a request until `leave`; the error with which to refuse it, if there is one."""
        address = request_context.client_key(scope)
        number = self._in_progress[address] = self._in_progress.get(address, 0) + 1
        # The server adds an empty Host where a request has none.
        hosts = [value for name, value in scope["headers"] if name == _HOST]
        if (len(hosts) != 1 or not hosts[0]) and scope["http_version"] == "1.1":
            return InvalidInput.at("Host", "a request needs exactly one Host header")
        if number > self._max_per_address and not self._is_exempt(address):
            return RateLimited(
                f"too many requests in progress from this address: at most "
                f"{self._max_per_address}; wait for others to end",
                details={"limit": self._max_per_address},
                retry_after=_RETRY_AFTER_S,
            )
        return None

    async def pace_refusal(self, scope: HTTPScope | WebSocketScope) -> None:
        """Wait until a request may be refused. Meanwhile its connection counts as idle."""
        request_context.mark_refused(scope)
        await self._refusals.wait(request_context.client_key(scope))

    def leave(self, scope: HTTPScope | WebSocketScope) -> None:
        """Count a request no longer."""
        address = request_context.client_key(scope)
        number = self._in_progress[address] - 1
        if number:
            self._in_progress[address] = number
        else:
            del self._in_progress[address]
