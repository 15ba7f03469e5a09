"""Spreads events over time that hostile clients could cause as fast as the server allows."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

_SHORTEST_WAIT_S = 0.0005  # the event loop's timers are no finer
_MAX_WAITING = 4096  # each holds a task, and a connection until the client closes it

Turn = asyncio.Future[None]


class Pacer:
    """Lets `per_s` events happen in a second, and `burst` more at once; others wait their turn.

    Clients take turns, so that one with many events delays its own only. At most `max_waiting`
    wait at once.
    """

    def __init__(
        self,
        per_s: float,
        burst: int,
        max_waiting: int = _MAX_WAITING,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._interval_s = 1 / per_s
        self._burst_s = burst * self._interval_s
        self._max_waiting = max_waiting
        self._clock = clock
        self._next_at = float("-inf")
        self._waiting = 0
        self._turns: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, client: str) -> None:
        """Until it is the turn of an event of `client`; no longer if very many wait already."""
        if self._waiting >= self._max_waiting or (not self._waiting and self._take()):
            return
        turn: Turn = asyncio.get_running_loop().create_future()
        self._turns.setdefault(client, deque()).append(turn)
        self._waiting += 1
        if self._timer is None:
            self._start_timer()
        try:
            await turn
        except asyncio.CancelledError:
            self._remove(client, turn)
            raise
        finally:
            self._waiting -= 1

    def _take(self) -> bool:
        """Count an event if one may happen now."""
        now = self._clock()
        next_at = max(self._next_at, now - self._burst_s) + self._interval_s
        if next_at - now >= _SHORTEST_WAIT_S:
            return False
        self._next_at = next_at
        return True

    def _start_timer(self) -> None:
        delay_s = self._next_at + self._interval_s - self._clock()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._give_turns)

    def _give_turns(self) -> None:
        self._timer = None
        while self._turns and self._take():
            client, turns = self._turns.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._turns[client] = turns
            if not turn.done():  # it is, if its task has been cancelled just now
                turn.set_result(None)
        if self._turns:
            self._start_timer()

    def _remove(self, client: str, turn: Turn) -> None:
        turns = self._turns.get(client, deque())
        if turn in turns:
            turns.remove(turn)
            if not turns:
                del self._turns[client]
