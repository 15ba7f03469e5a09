"""/metrics/cache: statistics of the response cache."""

import httpx

from tests.api.application import Api


async def test_cache_figures_when_nothing_was_asked_then_all_names_of_the_documents(
    client: httpx.AsyncClient,
) -> None:
    body = (await client.get("/metrics/cache")).json()
    documented = {
        "size", "max_size", "hit_rate_percent", "total_hits", "total_misses", "evictions",
        "expired_removals",
    }  # fmt: skip
    assert documented <= set(body)
    assert (body["size"], body["max_size"], body["hit_rate_percent"]) == (0, 1000, 0.0)


async def test_cache_figures_when_metrics_are_public_then_no_key_is_needed(api: Api) -> None:
    async with api.client(None) as client:
        assert (await client.get("/metrics/cache")).status_code == 200
