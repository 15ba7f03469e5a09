"""The weights of users, configured by username, for queues that know users by id."""

from collections.abc import Awaitable, Callable, Mapping


class UserWeights:
    """`lookup` gives the username of a user id, None if there is none; called once per user."""

    def __init__(
        self, weights: Mapping[str, float], lookup: Callable[[int], Awaitable[str | None]]
    ) -> None:
        self._weights = dict(weights)
        self._lookup = lookup
        self._usernames: dict[str, str] = {}

    async def load(self, user_id: int) -> None:
        """Look the user up, before its first request is queued."""
        if self._weights:
            await self.username(user_id)

    async def username(self, user_id: int) -> str | None:
        """The username of a user id; None if there is no such user."""
        username = self._usernames.get(user_key(user_id)) or await self._lookup(user_id)
        if username is not None:
            self.remember(user_id, username)
        return username

    def remember(self, user_id: int, username: str) -> None:
        """The user has this username: it need not be looked up."""
        self._usernames[user_key(user_id)] = username

    def weight_of(self, user: str) -> float:
        """The weight of QueueRequest.user; 1 if none is configured."""
        return self._weights.get(self._usernames.get(user, ""), 1.0)


def user_key(user_id: int) -> str:
    """QueueRequest.user of a user id."""
    return f"user:{user_id}"
