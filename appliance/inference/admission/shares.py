"""Who stands behind an owner: needed where rules are written for usernames."""

from collections.abc import Awaitable, Callable, Mapping

from msgspec.structs import replace

from appliance.inference.request.call import Caller

Lookup = Callable[[int], Awaitable[str | None]]


class Owners:
    """Learns names as they come; `lookup` gives the name of a user id that is new.

    Without `needed` nothing is looked up. `shares` are weights by username.
    """

    def __init__(self, lookup: Lookup, shares: Mapping[str, float], needed: bool) -> None:
        self._lookup = lookup
        self._shares = dict(shares)
        self._needed = needed or bool(shares)
        self._names: dict[str, str] = {}

    async def known(self, caller: Caller) -> Caller:
        """The caller with its username, where rules depend on it."""
        if not self._needed or caller.user_id is None:
            return caller
        name = caller.username or self._names.get(caller.owner)
        if name is None:
            name = await self._lookup(caller.user_id)
        if name is None:
            return caller
        self._names[caller.owner] = name
        return replace(caller, username=name)

    def weight_of(self, owner: str) -> float:
        """The owner's share; 1 for who has no other."""
        return self._shares.get(self._names.get(owner, ""), 1.0)


async def nobody(_user_id: int) -> str | None:
    """A lookup where there are no users."""
    return None
