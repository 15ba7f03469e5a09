"""Limits the number of waiting runs, in total and per user."""

from collections import Counter
from types import TracebackType

from appliance.errors import QueueFull


class QueueLimit:
    """Counts waiting runs. Each QueuePlace is released when its run starts or is given up."""

    def __init__(self, limit: int, per_user: int, retry_after_s: float) -> None:
        self._limit = limit
        self._per_user = per_user
        self._retry_after_s = retry_after_s
        self._waiting: Counter[int] = Counter()

    def admit(self, user_id: int, per_user: int | None = None) -> "QueuePlace":
        """The last place in the queue; `per_user` replaces the default limit per user.

        Raises QueueFull if either limit is reached.
        """
        user_limit = self._per_user if per_user is None else per_user
        waiting = self._waiting.total()
        if waiting >= self._limit:
            raise self._full(
                f"the sandbox queue is full ({waiting} of {self._limit})", waiting, user_limit
            )
        if self._waiting[user_id] >= user_limit:
            raise self._full(
                f"your part of the sandbox queue is full ({user_limit} of {user_limit})",
                waiting,
                user_limit,
            )
        self._waiting[user_id] += 1
        return QueuePlace(self._waiting, user_id, waiting + 1)

    def _full(self, reason: str, waiting: int, per_user: int) -> QueueFull:
        return QueueFull(
            f"{reason}; retry later",
            details={
                "queue_length": waiting,
                "queue_limit": self._limit,
                "user_limit": per_user,
                "place": waiting + 1,
            },
            retry_after=self._retry_after_s,
        )


class QueuePlace:
    """The place of a waiting run. `number` was its position when admitted: 1 is next."""

    def __init__(self, waiting: Counter[int], user_id: int, number: int) -> None:
        self.number = number
        self._waiting = waiting
        self._user_id = user_id
        self._released = False

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._waiting[self._user_id] -= 1
            if not self._waiting[self._user_id]:
                del self._waiting[self._user_id]

    def __enter__(self) -> "QueuePlace":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
