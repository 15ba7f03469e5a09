"""What waits in a fair queue, and the limits of the queue."""

from enum import IntEnum

from msgspec import Struct

from appliance.domain.tasks import Priority

RANKS = {Priority.INTERACTIVE: 0, Priority.NORMAL: 1, Priority.BATCH: 2}
"""The classes, in the order of service."""


class Caps(Struct, frozen=True):
    """Limits of a queue; 0 is no limit.

    `running` requests run at once, `waiting` may wait, `waiting_per_user` of one user. A pool
    that runs at least `reserve_from` at once keeps its last place for users without a running
    request, as long as more than one user was served within `reserve_s`.
    """

    running: int = 0
    waiting: int = 0
    waiting_per_user: int = 0
    reserve_from: int = 0
    reserve_s: float = 600.0


class QueueRequest(Struct, frozen=True):
    """A request of a user; `pool_limit` and `user_limit` bound how many run at once.

    Both are limits of the pool, the second for this user; 0 is no limit, and the latest request
    decides. A request that is not `bounded` may wait although the queue is full: the number of such
    requests is limited elsewhere.
    """

    user: str
    priority: Priority = Priority.INTERACTIVE
    pool: str = ""
    pool_limit: int = 0
    user_limit: int = 0
    bounded: bool = True


class EntryState(IntEnum):
    WAITING = 0
    RUNNING = 1
    ENDED = 2


class Entry(Struct, eq=False):
    """A request in the queue or running; `number` counts arrivals, `at` is the time of arrival."""

    request: QueueRequest
    number: int
    at: float
    state: EntryState = EntryState.WAITING
