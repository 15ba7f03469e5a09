"""Shares of callers: weights and rules are configured by username, requests carry user ids."""

from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from appliance.inference.request.call import Caller

UsernameLookup = Callable[[int], Awaitable[str | None]]


class CallerShares:
    """Usernames by owner, cached, and weights by username.

    `lookup` gives the username of a user id. It is called only if there are `shares` or
    `lookup_needed` says that another rule needs usernames.
    """

    def __init__(
        self, lookup: UsernameLookup, shares: Mapping[str, float], lookup_needed: bool
    ) -> None:
        self._lookup = lookup
        self._shares = dict(shares)
        self._lookup_needed = lookup_needed or bool(shares)
        self._usernames: dict[str, str] = {}

    async def resolve_username(self, caller: Caller) -> Caller:
        """The caller with its username, if any rule needs it and the user exists."""
        if not self._lookup_needed or caller.user_id is None:
            return caller
        username = caller.username or self._usernames.get(caller.owner)
        if username is None:
            username = await self._lookup(caller.user_id)
        if username is None:
            return caller
        self._usernames[caller.owner] = username
        return replace(caller, username=username)

    def weight_of(self, owner: str) -> float:
        """The owner's weight in the fair queue; 1 if none is configured."""
        return self._shares.get(self._usernames.get(owner, ""), 1.0)


async def no_username(_user_id: int) -> str | None:
    """The lookup of a gateway without users."""
    return None
