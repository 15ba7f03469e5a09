"""Remote providers that are slow or gone delay nobody for long."""

import asyncio
from collections.abc import Sequence
from unittest.mock import patch

import pytest

from appliance.domain.models import ModelInfo
from appliance.errors import ModelUnavailable, ProviderFailed, ProviderMisconfigured, UnknownModel
from appliance.inference import Gateway
from appliance.inference.routing import model_listing
from appliance.inference.routing.model_listing import ModelListing
from tests.support.gateway_parts import Scripted, gateway_over, route
from tests.support.polling import until


class SlowRemote(Scripted):
    """Lists once the event is set; fails while `broken`."""

    def __init__(self, name: str = "far") -> None:
        super().__init__("far", name=name, local=False, models=("m",))
        self.go = asyncio.Event()
        self.broken: Exception | None = None
        self.times_asked = 0

    async def models(self) -> Sequence[ModelInfo]:
        self.times_asked += 1
        if self.broken:
            raise self.broken
        await self.go.wait()
        return await super().models()


async def test_resolve_when_the_model_is_local_then_no_remote_provider_is_asked() -> None:
    remote = SlowRemote()
    gateway = gateway_over(remote, Scripted("near"), default="model")
    for name in (None, "auto", "model", "near/model"):
        assert (await gateway.resolve(name, None)).provider == "near"
    assert remote.times_asked == 0
    await gateway.close()


async def test_resolve_when_the_name_has_a_remote_provider_then_no_local_one_is_asked() -> None:
    remote, local = SlowRemote(), Scripted("near")
    remote.go.set()
    gateway = gateway_over(remote, local, default="model")
    assert (await gateway.resolve("far/m", None)).provider == "far"
    with patch.object(local, "models", side_effect=AssertionError):
        assert (await gateway.resolve("far/m", None)).provider == "far"
    assert (await gateway.resolve("near/model", None)).provider == "near"
    with pytest.raises(UnknownModel, match="near/model"):
        await gateway.resolve("far/none", None)
    await gateway.close()


async def test_resolve_when_a_remote_provider_is_silent_then_the_wait_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model_listing, "MAX_WAIT_S", 0.01)
    remote, other = SlowRemote(), SlowRemote("other")
    other.go.set()
    gateway = gateway_over(remote, other)
    assert (await gateway.resolve("other/m", None)).provider == "other"
    with pytest.raises(ModelUnavailable, match="provider 'far' can't be reached"):
        await gateway.resolve("far/m", None)
    with pytest.raises(UnknownModel):
        await gateway.resolve("other/far", None)
    remote.go.set()
    await until(lambda: _is_listed(gateway, "far"))
    assert (await gateway.resolve("far/m", None)).provider == "far"
    assert remote.times_asked == 1
    await gateway.close()


@pytest.mark.parametrize("broken", [ProviderFailed("gone"), KeyError("a bug")])
async def test_listing_when_it_begins_to_fail_then_the_last_list_is_used(
    broken: Exception,
) -> None:
    now = [0.0]
    remote = SlowRemote()
    remote.go.set()
    listing = ModelListing(remote, lambda: now[0])
    assert [info.name for info in await listing.models()] == ["m"]
    remote.broken = broken
    for at, times_asked in ((0.5, 1), (2.0, 2), (10.0, 2), (18.0, 3)):
        now[0] = at
        assert [info.name for info in await listing.models()] == ["m"]
        assert remote.times_asked == times_asked


async def test_resolve_when_a_remote_provider_is_gone_then_the_error_says_which() -> None:
    remote, other = SlowRemote(), SlowRemote("other")
    other.go.set()
    gateway = gateway_over(remote, other, routes=route("far/m"))
    remote.broken = ProviderFailed("connection refused")
    for name in ("far/m", "m2", "smart"):
        with pytest.raises(
            ModelUnavailable, match=r"'far' can't be reached \(connection ref"
        ) as gone:
            await gateway.resolve(name, None)
        assert 1 <= (gone.value.retry_after or 0) <= model_listing.FAILURE_PAUSE_S
    await gateway.close()


async def test_resolve_when_a_remote_provider_is_misconfigured_then_its_error() -> None:
    remote = SlowRemote()
    remote.broken = ProviderMisconfigured("far: wrong key")
    gateway = gateway_over(remote)
    with pytest.raises(ProviderMisconfigured, match="wrong key"):
        await gateway.resolve("far/m", None)
    await gateway.close()


async def test_close_when_a_listing_hangs_then_it_is_cancelled() -> None:
    remote = SlowRemote()
    gateway = gateway_over(remote)
    asking = asyncio.create_task(gateway.models())
    await until(lambda: remote.times_asked)
    await gateway.close()
    assert await asking == []


async def _is_listed(gateway: Gateway, provider: str) -> bool:
    return provider in [info.provider for info in await gateway.models()]
