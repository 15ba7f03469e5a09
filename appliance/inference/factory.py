"""Builds the gateway's parts from the settings."""

import time
from collections.abc import Callable, Mapping, Sequence

from appliance.config.settings import (
    CacheSettings,
    GatewaySettings,
    PolicySettings,
    PriceSettings,
    QuotaSettings,
    RouteSettings,
    Settings,
)
from appliance.errors import ConfigError
from appliance.inference.admission.admission import AdmissionControl
from appliance.inference.admission.circuit_breaker import CircuitBreaker
from appliance.inference.admission.completion_queue import CompletionQueue
from appliance.inference.admission.quotas import Quota, Quotas
from appliance.inference.admission.shares import CallerShares
from appliance.inference.attempts.fallback import FallbackChain
from appliance.inference.attempts.hedging import Hedging
from appliance.inference.attempts.retry import RetryPolicy
from appliance.inference.request.deadline import Deadlines
from appliance.inference.request.route import WeightedModel
from appliance.inference.response_cache import ResponseCache
from appliance.inference.routing.data_policy import DataPolicy
from appliance.inference.usage.pricing import Price, Prices

_MIB = 1024 * 1024


def build_aliases(routes: Mapping[str, RouteSettings]) -> dict[str, Sequence[WeightedModel]]:
    """Raises ConfigError for a route without models, or with a wrong number of weights."""
    return {name: _weighted_models(name, route) for name, route in routes.items()}


def build_prices(prices: Mapping[str, PriceSettings]) -> Prices:
    return Prices(
        {
            name: Price(price.input, price.output, price.cached if price.cached >= 0 else None)
            for name, price in prices.items()
        }
    )


def build_quotas(quotas: Mapping[str, QuotaSettings]) -> Quotas:
    return Quotas(
        {
            name: Quota(
                requests_per_minute=quota.requests_per_minute,
                tokens_per_minute=quota.tokens_per_minute,
                parallel=quota.parallel,
                spend_per_day=quota.spend_per_day,
            )
            for name, quota in quotas.items()
        }
    )


def build_data_policy(settings: PolicySettings) -> DataPolicy:
    return DataPolicy(
        frozenset(settings.local_only_labels),
        frozenset(settings.local_only_users),
        frozenset(settings.denied_providers),
    )


def build_response_cache(settings: CacheSettings) -> ResponseCache:
    return ResponseCache(
        max_entries=settings.max_entries,
        max_bytes=settings.max_mib * _MIB,
        max_age_s=settings.max_age_s,
        shared=settings.shared,
    )


def build_deadlines(settings: GatewaySettings) -> Deadlines:
    """The deadlines of completions and embeddings."""
    return Deadlines(
        settings.deadline_s,
        f"the answer was not complete within {settings.deadline_s:g} s; request fewer tokens, "
        "send fewer texts, or have the administrator raise gateway.deadline_s",
    )


def build_completion_queue(
    settings: GatewaySettings, shares: CallerShares, quotas: Quotas
) -> CompletionQueue:
    return CompletionQueue(
        queue_limit=settings.queue_limit,
        user_limit=settings.queue_limit_per_user,
        ageing_s=settings.ageing_s,
        weight_of=shares.weight_of,
        provider_limit=quotas.parallel_limit,
    )


def build_fallback_chain(
    settings: Settings,
    queue: CompletionQueue,
    quotas: Quotas,
    prices: Prices,
    is_local: Callable[[str], bool],
) -> FallbackChain:
    """The chain with its admission control, retry policy and hedging."""
    gateway = settings.gateway

    def new_breaker(name: str) -> CircuitBreaker:
        return CircuitBreaker(
            name, gateway.breaker_failures, gateway.breaker_window_s, gateway.breaker_pause_s
        )

    admission = AdmissionControl(
        queue,
        quotas,
        prices,
        new_breaker=new_breaker,
        is_local=is_local,
        remote_concurrency=gateway.remote_concurrency,
    )
    retry = RetryPolicy(gateway.tries, gateway.backoff_s, gateway.longest_pause_s)
    hedging = Hedging(gateway.hedge_after_s, is_local)
    return FallbackChain(admission, retry, hedging, time.monotonic)


def _weighted_models(name: str, route: RouteSettings) -> Sequence[WeightedModel]:
    if not route.models:
        raise ConfigError(f"[routes.{name}]: models must name at least one model")
    if route.weights and len(route.weights) != len(route.models):
        raise ConfigError(
            f"[routes.{name}]: {len(route.models)} models, but {len(route.weights)} weights; "
            "give one weight for each model, or none"
        )
    weights = route.weights or (0.0,) * len(route.models)
    return [
        WeightedModel(model, weight) for model, weight in zip(route.models, weights, strict=True)
    ]
