"""One request for embeddings: fallback, admission and usage as for completions."""

from msgspec.structs import replace

from appliance import telemetry
from appliance.domain.messages import EmbeddingRequest, Embeddings
from appliance.domain.usage import UsageStatus
from appliance.inference.attempts.attempt_log import AttemptLog, Started
from appliance.inference.completion_run import GatewayServices
from appliance.inference.request import provider_boundary
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route


class EmbeddingRun:
    """To be run once."""

    def __init__(self, call: Call, request: EmbeddingRequest, services: GatewayServices) -> None:
        self._call = call
        self._request = request
        self._services = services

    async def run(self) -> Embeddings:
        """The vectors. Raises what CompletionService.embed raises."""
        self._services.usage.require_capacity()
        started = await self._start()
        try:
            self._settle(started)
        finally:
            started.permit.release()
        return started.answer

    async def _start(self) -> Started[Embeddings]:
        services, now = self._services, self._services.clock()
        log, ends_at = AttemptLog(now), now + services.deadlines.seconds
        deadline = services.deadlines.start()
        try:
            return await deadline.run(
                lambda: services.fallback.start(self._call, self._ask, log, ends_at)
            )
        finally:
            deadline.close()

    async def _ask(self, route: Route) -> Embeddings:
        request = replace(self._request, model=route.model)
        provider = self._services.provider(route.provider)
        return await provider_boundary.call_provider(route, provider.embed(request))

    def _settle(self, started: Started[Embeddings]) -> None:
        usage = started.answer.usage
        record = self._services.usage.reserve(self._call, started.route)
        settled = self._services.usage.settle(record, usage, UsageStatus.COMPLETED, exact=True)
        started.permit.settle(usage, settled.cost)
        telemetry.observe_tokens(record.provider, record.model, usage.prompt_tokens, 0)
        if settled.cost:
            telemetry.observe_cost(record.provider, record.model, settled.cost)
