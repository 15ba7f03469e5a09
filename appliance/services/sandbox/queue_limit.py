"""How many may wait for their turn, in all and of one user."""

from collections import Counter
from types import TracebackType

from appliance.errors import QueueFull


class WaitingRoom:
    """Bounds those that wait; each `Place` is left when its turn comes."""

    def __init__(self, limit: int, per_user: int, retry_after_s: float) -> None:
        self._limit = limit
        self._per_user = per_user
        self._retry_after_s = retry_after_s
        self._waiting: Counter[int] = Counter()

    def enter(self, user_id: int, per_user: int | None = None) -> "Place":
        """A place at the end, where that user may have `per_user` instead of the usual number.

        Raises QueueFull, with the place that it would have been.
        """
        most = self._per_user if per_user is None else per_user
        waiting = self._waiting.total()
        if waiting >= self._limit:
            raise self._full(f"{waiting} runs wait already, which is the limit", waiting, most)
        if self._waiting[user_id] >= most:
            raise self._full(f"{most} of your runs wait already", waiting, most)
        self._waiting[user_id] += 1
        return Place(self._waiting, user_id, waiting + 1)

    def _full(self, reason: str, waiting: int, per_user: int) -> QueueFull:
        return QueueFull(
            f"{reason}; this one would have been number {waiting + 1}. Try again later",
            details={
                "queue_length": waiting,
                "queue_limit": self._limit,
                "user_limit": per_user,
                "place": waiting + 1,
            },
            retry_after=self._retry_after_s,
        )


class Place:
    """One that waits. `number` is its place as it came: 1 is next."""

    def __init__(self, waiting: Counter[int], user_id: int, number: int) -> None:
        self.number = number
        self._waiting = waiting
        self._user_id = user_id
        self._left = False

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._waiting[self._user_id] -= 1
            if not self._waiting[self._user_id]:
                del self._waiting[self._user_id]

    def __enter__(self) -> "Place":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.leave()
