"""/api/v1/auth/keys: the caller's API keys."""

from typing import Any

from litestar import Request, delete, get, post
from litestar.params import FromPath, JSONBody

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.loopback import direct_address
from appliance.api.http.requests import principal_of
from appliance.api.monkey import accounts
from appliance.api.monkey.account_schemas import KeyAnswer, KeyBody, KeyStatsAnswer
from appliance.api.openapi import ANYBODY, OptionalBody

AnyRequest = Request[Any, Any, Any]


@post("/", status_code=200, operation_class=OptionalBody)
async def create_key(
    request: AnyRequest,
    services: ServicesDependency,
    data: JSONBody[KeyBody | None] = None,
) -> KeyAnswer:
    """Make a key. The answer holds its secret, which is never shown again."""
    body = data or KeyBody()
    scopes = body.permissions if body.permissions is not None else body.scopes or []
    expiry = accounts.key_expiry(body)
    made = await services.accounts.create_key(principal_of(request), body.name, scopes, expiry)
    return accounts.key_answer(*made)


@get("/")
async def list_keys(request: AnyRequest, services: ServicesDependency) -> list[KeyAnswer]:
    """The caller's keys, without their secrets."""
    keys = await services.accounts.list_keys(principal_of(request))
    return [accounts.key_answer(key) for key in keys]


@get("/stats")
async def key_stats(request: AnyRequest, services: ServicesDependency) -> KeyStatsAnswer:
    """How many keys the caller has, and how much they were used."""
    return accounts.stats_answer(await services.accounts.key_stats(principal_of(request)))


@delete("/{key_id:str}", status_code=200)
async def revoke_key(
    request: AnyRequest, services: ServicesDependency, key_id: FromPath[str]
) -> KeyAnswer:
    """Revoke a key: it stops working at once."""
    return accounts.key_answer(await services.accounts.revoke_key(principal_of(request), key_id))


@post("/dev", status_code=200, security=ANYBODY)
async def create_dev_key(request: AnyRequest, services: ServicesDependency) -> KeyAnswer:
    """Make a short-lived key without a login; from this machine only, where it is allowed."""
    address = direct_address(request.scope)
    return accounts.key_answer(*await services.accounts.create_dev_key(address))
