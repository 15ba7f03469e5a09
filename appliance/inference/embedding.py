"""Vectors, by the same way as completions: candidates, doors, books."""

import asyncio

from msgspec.structs import replace

from appliance import telemetry
from appliance.domain.messages import EmbeddingRequest, Embeddings
from appliance.domain.usage import UsageStatus
from appliance.errors import DeadlineExceeded
from appliance.inference.attempts.attempt_log import Begun, Trace
from appliance.inference.completion_run import Machinery
from appliance.inference.request import provider_boundary
from appliance.inference.request.call import Call
from appliance.inference.request.route import Route


class Embedding:
    """One request for vectors, to be made once."""

    def __init__(self, call: Call, request: EmbeddingRequest, machinery: Machinery) -> None:
        self._call = call
        self._request = request
        self._with = machinery

    async def made(self) -> Embeddings:
        """The vectors. Raises what Completions.embed raises."""
        self._with.books.require_room()
        begun = await self._asked()
        try:
            self._settle(begun)
        finally:
            begun.entered.release()
        return begun.answer

    async def _asked(self) -> Begun[Embeddings]:
        now, limit = self._with.clock(), self._with.deadlines.seconds
        try:
            async with asyncio.timeout(limit):
                return await self._with.chain.begin(self._call, self._ask, Trace(now), now + limit)
        except TimeoutError:
            raise DeadlineExceeded(f"the vectors were not made within {limit:g} s") from None

    async def _ask(self, route: Route) -> Embeddings:
        request = replace(self._request, model=route.model)
        provider = self._with.provider(route.provider)
        return await provider_boundary.asked(route, provider.embed(request))

    def _settle(self, begun: Begun[Embeddings]) -> None:
        usage = begun.answer.usage
        record = self._with.books.open(self._call, begun.route)
        settled = self._with.books.settle(record, usage, UsageStatus.COMPLETED, exact=True)
        begun.entered.settle(usage, settled.cost)
        telemetry.observe_tokens(record.provider, record.model, usage.prompt_tokens, 0)
        if settled.cost:
            telemetry.observe_cost(record.provider, record.model, settled.cost)
