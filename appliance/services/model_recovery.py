"""Loads the default model again after its engine has failed."""

import asyncio

from appliance.domain.models import ModelState
from appliance.errors import ApplianceError
from appliance.inference.gateway import Gateway

_INTERVAL_S = 2.5


async def recover_default_model(gateway: Gateway) -> None:
    """Load the default model whenever it has failed; runs until cancelled.

    Without this, a server that is not ready because its engine could not be started would get no
    request that starts it. The provider delays repeated attempts; /health shows why they fail.
    """
    while True:
        await asyncio.sleep(_INTERVAL_S)
        try:
            model = await gateway.default_model()
            if model is not None and model.state is ModelState.FAILED:
                await gateway.load(await gateway.resolve(model.name, model.provider))
        except ApplianceError:
            continue
