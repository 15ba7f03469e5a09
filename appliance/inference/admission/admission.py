"""Admission control: a request enters a provider through its circuit breaker, quotas and queue."""

from collections.abc import Callable

from appliance.domain.messages import TokenUsage
from appliance.domain.usage import UsageKind
from appliance.errors import ApplianceError
from appliance.inference.admission.circuit_breaker import CircuitBreaker
from appliance.inference.admission.completion_queue import CompletionQueue, Slot
from appliance.inference.admission.quotas import QuotaReservation, Quotas
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route
from appliance.inference.usage.pricing import Prices
from appliance.spi.fair_queue import QueueRequest


class Permit:
    """The right to use a provider for one request: a slot of the queue and reserved quota."""

    def __init__(self, slot: Slot, reservation: QuotaReservation) -> None:
        self._slot = slot
        self._reservation = reservation

    def settle(self, usage: TokenUsage, cost: float | None) -> None:
        """Count what was used against the quotas."""
        self._reservation.settle(usage.total_tokens, cost)

    def release(self) -> None:
        """Free the slot. Unless it was settled, nothing counts as used."""
        self._reservation.cancel()
        self._slot.release()


class AdmissionControl:
    """`new_breaker` makes a circuit breaker by name; `is_local` tells which providers are local.

    Where no quota says otherwise, `remote_concurrency` requests of a remote provider's model
    may run at once; of a local model, as many as its engine runs.
    """

    def __init__(
        self,
        queue: CompletionQueue,
        quotas: Quotas,
        prices: Prices,
        *,
        new_breaker: Callable[[str], CircuitBreaker],
        is_local: Callable[[str], bool],
        remote_concurrency: int,
    ) -> None:
        self._queue = queue
        self._quotas = quotas
        self._prices = prices
        self._new_breaker = new_breaker
        self._is_local = is_local
        self._remote_concurrency = remote_concurrency
        self._breakers: dict[str, CircuitBreaker] = {}

    async def admit(self, route: Route, call: Call) -> Permit:
        """Wait for a permit, which the caller releases.

        Report the result of the attempt with a `record` method. Raises CircuitOpen,
        QuotaExceeded or ProviderQueueFull.
        """
        breaker = self._breaker(route)
        breaker.require_closed()
        try:
            return await self._reserve_and_queue(route, call)
        except BaseException:
            breaker.record_abandoned()
            raise

    def record_success(self, route: Route) -> None:
        """The provider has begun to answer."""
        self._breaker(route).record_success()

    def record_failure(self, route: Route, error: ApplianceError) -> None:
        self._breaker(route).record_failure(error)

    def record_abandoned(self, route: Route) -> None:
        """The attempt was cancelled before its result was known."""
        self._breaker(route).record_abandoned()

    async def _reserve_and_queue(self, route: Route, call: Call) -> Permit:
        bound = call.estimate.upper_bound(route.info.context_tokens)
        cost = self._prices.cost(route.provider, route.model, bound)
        reservation = self._quotas.reserve(route.provider, route.model, bound.prompt_tokens, cost)
        try:
            slot = await self._queue.acquire(route.provider, self._queue_request(route, call))
        except BaseException:
            reservation.cancel()
            raise
        return Permit(slot, reservation)

    def _queue_request(self, route: Route, call: Call) -> QueueRequest:
        local = self._is_local(route.provider)
        default = route.info.max_parallel if local else self._remote_concurrency
        return QueueRequest(
            user=call.caller.owner,
            priority=call.priority,
            pool=route.model,
            pool_limit=self._quotas.parallel_limit(route.path) or default,
            # The scheduler has bounded the number of tasks already.
            bounded=call.kind is not UsageKind.TASK,
        )

    def _breaker(self, route: Route) -> CircuitBreaker:
        """One per remote provider; one per local model, since local engines fail one by one."""
        name = route.path if self._is_local(route.provider) else route.provider
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = self._new_breaker(name)
        return breaker
