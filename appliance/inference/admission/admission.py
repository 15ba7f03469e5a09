"""What stands before a provider: its circuit breaker, its limits, the fair-share gate."""

from collections.abc import Callable

from appliance.domain.messages import TokenUsage
from appliance.domain.usage import UsageKind
from appliance.errors import ApplianceError
from appliance.inference.admission.circuit_breaker import Breaker
from appliance.inference.admission.fair_queue import Gate, Ticket, Wish
from appliance.inference.admission.quotas import Admission, Limits
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route
from appliance.inference.usage.pricing import Prices


class Entered:
    """The right to use a provider for one request."""

    def __init__(self, ticket: Ticket, admission: Admission) -> None:
        self._ticket = ticket
        self._admission = admission

    def settle(self, usage: TokenUsage, cost: float | None) -> None:
        """Count what was used against the limits."""
        self._admission.settle(usage.total_tokens, cost)

    def release(self) -> None:
        """Let the next one in; what was not settled has used nothing."""
        self._admission.cancel()
        self._ticket.release()


class Doors:
    """`breaker` makes one by name; `is_local` tells which providers are of this box.

    Of a far provider's model, `far_parallel` requests may run at once if no limit says
    otherwise; of a local one as many as its engine takes.
    """

    def __init__(
        self,
        gate: Gate,
        limits: Limits,
        prices: Prices,
        *,
        breaker: Callable[[str], Breaker],
        is_local: Callable[[str], bool],
        far_parallel: int,
    ) -> None:
        self._gate = gate
        self._limits = limits
        self._prices = prices
        self._new_breaker = breaker
        self._is_local = is_local
        self._far_parallel = far_parallel
        self._breakers: dict[str, Breaker] = {}

    async def enter(self, route: Route, call: Call) -> Entered:
        """Wait for the right to go. Raises CircuitOpen, LimitReached, GateFull."""
        breaker = self._breaker(route)
        breaker.require_closed()
        try:
            return await self._admitted(route, call)
        except BaseException:
            breaker.given_up()
            raise

    def served(self, route: Route) -> None:
        """An attempt has begun to answer."""
        self._breaker(route).served()

    def failed(self, route: Route, error: ApplianceError) -> None:
        self._breaker(route).failed(error)

    def given_up(self, route: Route) -> None:
        """An attempt was cancelled before it showed how it would end."""
        self._breaker(route).given_up()

    async def _admitted(self, route: Route, call: Call) -> Entered:
        most = call.size.at_most(route.info.context_tokens)
        cost = self._prices.cost(route.provider, route.model, most)
        prompt = most.prompt_tokens
        admission = self._limits.admit(route.provider, route.model, prompt, cost)
        try:
            ticket = await self._gate.enter(self._wish(route, call))
        except BaseException:
            admission.cancel()
            raise
        return Entered(ticket, admission)

    def _wish(self, route: Route, call: Call) -> Wish:
        usual = route.info.max_parallel if self._is_local(route.provider) else self._far_parallel
        return Wish(
            provider=route.provider,
            model=route.model,
            owner=call.caller.owner,
            urgency=call.urgency,
            of_model=self._limits.parallel(route.path) or usual,
            of_provider=self._limits.parallel(route.provider),
            # A task's generations are bounded by the scheduler, which took the task in.
            bounded=call.kind is not UsageKind.TASK,
        )

    def _breaker(self, route: Route) -> Breaker:
        """One per far provider; one per local model, whose engines fail one by one."""
        name = route.path if self._is_local(route.provider) else route.provider
        breaker = self._breakers.get(name)
        if breaker is None:
            breaker = self._breakers[name] = self._new_breaker(name)
        return breaker
