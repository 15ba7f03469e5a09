"""/api/v1/auth: login, tokens, and the caller's API keys."""

import time
from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, JSONBody

from appliance.api.http import request_context
from appliance.api.http.auth import REFRESH_COOKIE, SESSION_COOKIE, check_origin
from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.http.errors import malformed_body_status
from appliance.api.http.loopback import unproxied_address
from appliance.api.http.requests import get_principal
from appliance.api.monkey import account_answers
from appliance.api.monkey.account_schemas import (
    KeyAnswer,
    KeyBody,
    KeyStatsAnswer,
    LoginBody,
    MessageAnswer,
    RefreshBody,
    StatusAnswer,
    TokenAnswer,
)
from appliance.api.openapi import NO_CREDENTIALS, OptionalBody
from appliance.config.settings import Settings
from appliance.domain.users import TokenPair
from appliance.errors import InvalidInput, InvalidToken

AnyRequest = Request[Any, Any, Any]

_REFRESH_PATH = "/api/v1/auth"
_DAY_S = 86_400


@post("/login", status_code=200, opt=malformed_body_status(422), security=NO_CREDENTIALS)
async def login(
    request: AnyRequest,
    data: JSONBody[LoginBody],
    services: ServicesDependency,
    settings: SettingsDependency,
) -> Response[TokenAnswer]:
    """Exchange an email address or username and a password for tokens. Accepts forms, too."""
    identifier = data.email or data.username
    if not identifier:
        raise InvalidInput.at("email", "is required (or `username`)")
    address = request_context.client_address(request.scope)
    tokens = await services.accounts.login.log_in(identifier, data.password, address)
    return _token_response(request, tokens, settings)


@post(
    "/refresh",
    status_code=200,
    opt=malformed_body_status(422),
    security=NO_CREDENTIALS,
    operation_class=OptionalBody,
)
async def refresh(
    request: AnyRequest,
    services: ServicesDependency,
    settings: SettingsDependency,
    data: JSONBody[RefreshBody | None] = None,
) -> Response[TokenAnswer]:
    """Exchange a refresh token for new tokens. A refresh token can be used once.

    Without a token in the body, the cookie is used.
    """
    token = data.refresh_token if data else None
    if not token and (token := request.cookies.get(REFRESH_COOKIE)):
        check_origin(request, settings.server.cors_origins)
    if not token:
        raise InvalidToken("refresh token is missing: send it as `refresh_token`")
    return _token_response(request, await services.accounts.sessions.rotate(token), settings)


@post("/logout", status_code=200, operation_class=OptionalBody)
async def logout(
    request: AnyRequest,
    services: ServicesDependency,
    data: JSONBody[RefreshBody | None] = None,
) -> Response[MessageAnswer]:
    """End the session: its access and refresh tokens become invalid."""
    token = (data.refresh_token if data else None) or request.cookies.get(REFRESH_COOKIE)
    await services.accounts.sessions.end(get_principal(request), token)
    deletions = [_cookie(request, SESSION_COOKIE, "", "/", 0)]
    deletions.append(_cookie(request, REFRESH_COOKIE, "", _REFRESH_PATH, 0))
    return Response(MessageAnswer("Successfully logged out"), cookies=deletions)


@get("/status")
async def status(request: AnyRequest) -> StatusAnswer:
    """Get the user of the credentials, and what they permit."""
    return account_answers.status_answer(get_principal(request))


@post("/", status_code=200, operation_class=OptionalBody)
async def create_key(
    request: AnyRequest,
    services: ServicesDependency,
    data: JSONBody[KeyBody | None] = None,
) -> KeyAnswer:
    """Create an API key. The response has its secret, which is never shown again."""
    body = data or KeyBody()
    scopes = body.permissions if body.permissions is not None else body.scopes or []
    expiry = account_answers.key_expiry(body)
    created = await services.accounts.keys.create(get_principal(request), body.name, scopes, expiry)
    return account_answers.key_answer(*created)


@get("/")
async def list_keys(request: AnyRequest, services: ServicesDependency) -> list[KeyAnswer]:
    """List the caller's keys, without their secrets."""
    keys = await services.accounts.keys.list_own(get_principal(request))
    return [account_answers.key_answer(key) for key in keys]


@get("/stats")
async def key_stats(request: AnyRequest, services: ServicesDependency) -> KeyStatsAnswer:
    """Count the caller's keys and their uses."""
    return account_answers.stats_answer(await services.accounts.keys.stats(get_principal(request)))


@delete("/{key_id:str}", status_code=200)
async def revoke_key(
    request: AnyRequest, services: ServicesDependency, key_id: FromPath[str]
) -> KeyAnswer:
    """Revoke a key; it becomes invalid at once."""
    return account_answers.key_answer(
        await services.accounts.keys.revoke(get_principal(request), key_id)
    )


@post("/dev", status_code=200, security=NO_CREDENTIALS)
async def create_dev_key(request: AnyRequest, services: ServicesDependency) -> KeyAnswer:
    """Create a short-lived key without login. Only for local clients, if enabled."""
    address = unproxied_address(request.scope)
    return account_answers.key_answer(*await services.accounts.dev_keys.create(address))


def _token_response(
    request: AnyRequest, tokens: TokenPair, settings: Settings
) -> Response[TokenAnswer]:
    answer = account_answers.token_answer(tokens, time.time())
    lifetime = settings.auth.refresh_token_days * _DAY_S
    session_cookie = _cookie(request, SESSION_COOKIE, tokens.access_token, "/", answer.expires_in)
    refresh_cookie = _cookie(request, REFRESH_COOKIE, tokens.refresh_token, _REFRESH_PATH, lifetime)
    return Response(answer, cookies=[session_cookie, refresh_cookie])


def _cookie(request: AnyRequest, name: str, value: str, path: str, max_age: int) -> Cookie:
    return Cookie(
        key=name,
        value=value,
        path=path,
        max_age=max_age,
        httponly=True,
        samesite="lax",
        secure=request.scope["scheme"] == "https",
    )
