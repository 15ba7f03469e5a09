"""Prices: the cost of token usage."""

from collections.abc import Mapping

from msgspec import Struct

from appliance.domain.messages import TokenUsage

_MILLION = 1_000_000


class Price(Struct, frozen=True):
    """Per million tokens. `cached` is for prompt tokens that were reused; None: as `input`."""

    input: float
    output: float
    cached: float | None = None

    def cost(self, usage: TokenUsage) -> float:
        cached = self.input if self.cached is None else self.cached
        uncached_tokens = usage.prompt_tokens - usage.cached_tokens
        total = uncached_tokens * self.input + usage.cached_tokens * cached
        return (total + usage.completion_tokens * self.output) / _MILLION


class Prices:
    """By "provider/model", else by "provider"."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

    def cost(self, provider: str, model: str, usage: TokenUsage) -> float | None:
        """None if no price is configured."""
        if not self._prices:
            return None
        price = self._prices.get(f"{provider}/{model}") or self._prices.get(provider)
        return price.cost(usage) if price else None
