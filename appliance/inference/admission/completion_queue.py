"""The queues of completions: one fair queue per provider, with one pool per model."""

import time
from collections.abc import Callable

from appliance.domain.moving_average import update_average
from appliance.errors import QueueFull
from appliance.inference.request.errors import ProviderQueueFull
from appliance.spi.fair_queue import Caps, FairQueue, FairSemaphore, QueueRequest, Ticket

# A model that runs at least so many requests keeps its last slot for users without one: long
# answers of one user can't hold all. See Caps.
_RESERVING_LIMIT = 4


class CompletionQueue:
    """The right to run completions, in the order of appliance.spi.fair_queue.

    At most `queue_limit` requests may wait for a provider, and at most `user_limit` of one user.
    `provider_limit` gives how many requests of all a provider's models may run; 0 is no limit.
    """

    def __init__(
        self,
        *,
        queue_limit: int = 256,
        user_limit: int = 64,
        ageing_s: float = 10.0,
        weight_of: Callable[[str], float] = lambda _: 1.0,
        provider_limit: Callable[[str], int] = lambda _: 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_limit = queue_limit
        self._user_limit = user_limit
        self._ageing_s = ageing_s
        self._weight_of = weight_of
        self._provider_limit = provider_limit
        self._clock = clock
        self._queues: dict[str, FairSemaphore] = {}
        self._average_s: dict[tuple[str, str], float] = {}

    @property
    def waiting(self) -> int:
        return sum(queue.waiting for queue in self._queues.values())

    @property
    def running(self) -> int:
        return sum(queue.running for queue in self._queues.values())

    async def acquire(self, provider: str, request: QueueRequest) -> "Slot":
        """Wait for a slot of the model `request.pool`; the caller releases it.

        Raises ProviderQueueFull. Cancelling the call leaves the queue.
        """
        queue = self._queues.get(provider) or self._add_queue(provider)
        try:
            ticket = await queue.acquire(request)
        except QueueFull as error:
            raise self._refusal(error, provider, request) from None
        return Slot(self, ticket, (provider, request.pool), self._clock)

    def record_duration(self, model: tuple[str, str], seconds: float) -> None:
        """Called by Slot.release only."""
        self._average_s[model] = update_average(self._average_s.get(model), seconds)

    def _add_queue(self, provider: str) -> FairSemaphore:
        caps = Caps(
            running=self._provider_limit(provider),
            waiting=self._queue_limit,
            waiting_per_user=self._user_limit,
            reserve_from=_RESERVING_LIMIT,
        )
        queue = self._queues[provider] = FairSemaphore(
            FairQueue(
                f"the queue for {provider}",
                caps,
                ageing_s=self._ageing_s,
                weight_of=self._weight_of,
                clock=self._clock,
            )
        )
        return queue

    def _refusal(self, error: QueueFull, provider: str, request: QueueRequest) -> ProviderQueueFull:
        """With the expected wait, unless no run of the model has ended yet."""
        average, place = self._average_s.get((provider, request.pool)), error.details["place"]
        if average is None:
            return ProviderQueueFull(error.message, details=error.details)
        limits = (request.pool_limit, self._provider_limit(provider), place)
        expected = place * average / min(limit for limit in limits if limit)
        return ProviderQueueFull(
            error.message,
            details=error.details | {"expected_wait_s": round(expected, 1)},
            retry_after=expected,
        )


class Slot:
    """The right to run one request."""

    __slots__ = ("_clock", "_model", "_queue", "_since", "_ticket")

    def __init__(
        self,
        queue: CompletionQueue,
        ticket: Ticket,
        model: tuple[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._ticket = ticket
        self._model = model
        self._clock = clock
        self._since: float | None = clock()

    def release(self) -> None:
        """Give the slot to the next waiter; further calls do nothing."""
        if self._since is not None:
            self._queue.record_duration(self._model, self._clock() - self._since)
            self._since = None
            self._ticket.release()
