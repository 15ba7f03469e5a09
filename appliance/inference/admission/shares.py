"""Shares of callers: weights and rules are configured by username, requests carry user ids."""

from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from appliance.inference.request.call import Caller
from appliance.spi.fair_queue import UserWeights

UsernameLookup = Callable[[int], Awaitable[str | None]]


class CallerShares:
    """Usernames by owner, cached, and weights by username.

    `lookup` gives the username of a user id. It is called only if there are `shares` or
    `lookup_needed` says that another rule needs usernames.
    """

    def __init__(
        self, lookup: UsernameLookup, shares: Mapping[str, float], lookup_needed: bool
    ) -> None:
        self._weights = UserWeights(shares, lookup)
        self._lookup_needed = lookup_needed or bool(shares)

    async def resolve_username(self, caller: Caller) -> Caller:
        """The caller with its username, if any rule needs it and the user exists."""
        if not self._lookup_needed or caller.user_id is None:
            return caller
        if caller.username is not None:
            self._weights.remember(caller.user_id, caller.username)
            return caller
        username = await self._weights.username(caller.user_id)
        return caller if username is None else replace(caller, username=username)

    def weight_of(self, owner: str) -> float:
        """The owner's weight in the fair queue; 1 if none is configured."""
        return self._weights.weight_of(owner)


async def no_username(_user_id: int) -> str | None:
    """The lookup of a gateway without users."""
    return None
