"""The parts of the gateway as the settings want them."""

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
from appliance.inference.admission.admission import Doors
from appliance.inference.admission.circuit_breaker import Breaker
from appliance.inference.admission.fair_queue import Gate
from appliance.inference.admission.quotas import Limit, Limits
from appliance.inference.admission.shares import Owners
from appliance.inference.attempts.fallback import Chain
from appliance.inference.attempts.hedging import Hedging
from appliance.inference.attempts.retry import Patience
from appliance.inference.request.deadline import Deadlines
from appliance.inference.request.route import Candidate
from appliance.inference.response_cache import ResponseCache
from appliance.inference.routing.data_policy import Policy
from appliance.inference.usage.pricing import Price, Prices

_MIB = 1024 * 1024


def aliases(routes: Mapping[str, RouteSettings]) -> dict[str, Sequence[Candidate]]:
    """Raises ConfigError for a route that leads nowhere."""
    return {name: _candidates(name, route) for name, route in routes.items()}


def prices(configured: Mapping[str, PriceSettings]) -> Prices:
    """By "provider/model" or "provider"."""
    return Prices(
        {
            name: Price(price.input, price.output, price.cached if price.cached >= 0 else None)
            for name, price in configured.items()
        }
    )


def limits(quotas: Mapping[str, QuotaSettings]) -> Limits:
    """By "provider/model" and by "provider"."""
    return Limits(
        {
            name: Limit(
                requests_per_minute=quota.requests_per_minute,
                tokens_per_minute=quota.tokens_per_minute,
                parallel=quota.parallel,
                spend_per_day=quota.spend_per_day,
            )
            for name, quota in quotas.items()
        }
    )


def policy(settings: PolicySettings) -> Policy:
    return Policy(
        frozenset(settings.local_only_labels),
        frozenset(settings.local_only_users),
        frozenset(settings.denied_providers),
    )


def cache(settings: CacheSettings) -> ResponseCache:
    return ResponseCache(
        max_entries=settings.max_entries,
        max_bytes=settings.max_mib * _MIB,
        max_age_s=settings.max_age_s,
        shared=settings.shared,
    )


def deadlines(settings: GatewaySettings) -> Deadlines:
    """Of completions."""
    return Deadlines(
        settings.deadline_s,
        f"the completion was not done within {settings.deadline_s:g} s; "
        "ask for fewer tokens, or the administrator allows more time",
    )


def gate(settings: GatewaySettings, owners: Owners) -> Gate:
    return Gate(
        queue_limit=settings.queue_limit,
        owner_limit=settings.queue_limit_per_user,
        ageing_s=settings.ageing_s,
        weight_of=owners.weight_of,
    )


def chain(
    settings: Settings,
    gate: Gate,
    limits: Limits,
    prices: Prices,
    is_local: Callable[[str], bool],
) -> Chain:
    """The doors before every provider, the patience with them, and who is asked beside them."""
    chosen = settings.gateway

    def breaker(name: str) -> Breaker:
        return Breaker(
            name, chosen.breaker_failures, chosen.breaker_window_s, chosen.breaker_pause_s
        )

    doors = Doors(
        gate, limits, prices, breaker=breaker, is_local=is_local, far_parallel=chosen.far_parallel
    )
    patience = Patience(chosen.tries, chosen.backoff_s, chosen.longest_pause_s)
    hedging = Hedging(chosen.hedge_after_s, is_local)
    return Chain(doors, patience, hedging, time.monotonic)


def _candidates(name: str, route: RouteSettings) -> Sequence[Candidate]:
    if not route.models:
        raise ConfigError(f"[routes.{name}]: models must name at least one model")
    if route.weights and len(route.weights) != len(route.models):
        raise ConfigError(
            f"[routes.{name}]: {len(route.models)} models, but {len(route.weights)} weights; "
            "give one weight for each model, or none"
        )
    weights = route.weights or (0.0,) * len(route.models)
    return [Candidate(model, weight) for model, weight in zip(route.models, weights, strict=True)]
