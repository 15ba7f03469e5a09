"""/api/v1/auth: log in, refresh, log out, and ask who one is."""

import time
from typing import Any

from litestar import Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.params import JSONBody

from appliance.api.http import request_context
from appliance.api.http.auth import REFRESH_COOKIE, SESSION_COOKIE, check_origin
from appliance.api.http.dependencies import ServicesDependency, SettingsDependency
from appliance.api.http.errors import malformed_answers
from appliance.api.http.requests import principal_of
from appliance.api.monkey import accounts
from appliance.api.monkey.account_schemas import (
    LoginBody,
    MessageAnswer,
    RefreshBody,
    StatusAnswer,
    TokenAnswer,
)
from appliance.api.openapi import ANYBODY, OptionalBody
from appliance.config.settings import Settings
from appliance.domain.users import TokenPair
from appliance.errors import InvalidInput, InvalidToken

AnyRequest = Request[Any, Any, Any]

_REFRESH_PATH = "/api/v1/auth"
_DAY_S = 86_400


@post("/login", status_code=200, opt=malformed_answers(422), security=ANYBODY)
async def login(
    request: AnyRequest,
    data: JSONBody[LoginBody],
    services: ServicesDependency,
    settings: SettingsDependency,
) -> Response[TokenAnswer]:
    """Exchange an email address or username, and a password, for tokens. Forms work, too."""
    identifier = data.email or data.username
    if not identifier:
        raise InvalidInput.at("email", "is required (or `username`)")
    address = request_context.client_address(request.scope)
    tokens = await services.accounts.login(identifier, data.password, address)
    return _signed_in(request, tokens, settings)


@post(
    "/refresh",
    status_code=200,
    opt=malformed_answers(422),
    security=ANYBODY,
    operation_class=OptionalBody,
)
async def refresh(
    request: AnyRequest,
    services: ServicesDependency,
    settings: SettingsDependency,
    data: JSONBody[RefreshBody | None] = None,
) -> Response[TokenAnswer]:
    """Exchange a refresh token for new tokens; each can be used once.

    Without a token in the body, the browser's cookie is used.
    """
    token = data.refresh_token if data else None
    if not token and (token := request.cookies.get(REFRESH_COOKIE)):
        check_origin(request, settings.server.cors_origins)
    if not token:
        raise InvalidToken("a refresh token is missing: send it as `refresh_token`")
    return _signed_in(request, await services.accounts.refresh(token), settings)


@post("/logout", status_code=200, operation_class=OptionalBody)
async def logout(
    request: AnyRequest,
    services: ServicesDependency,
    data: JSONBody[RefreshBody | None] = None,
) -> Response[MessageAnswer]:
    """End the session: its access and refresh tokens stop working."""
    token = (data.refresh_token if data else None) or request.cookies.get(REFRESH_COOKIE)
    await services.accounts.logout(principal_of(request), token)
    gone = [_cookie(request, SESSION_COOKIE, "", "/", 0)]
    gone.append(_cookie(request, REFRESH_COOKIE, "", _REFRESH_PATH, 0))
    return Response(MessageAnswer("Successfully logged out"), cookies=gone)


@get("/status")
async def status(request: AnyRequest) -> StatusAnswer:
    """Who the credentials belong to, and what they allow."""
    return accounts.status_answer(principal_of(request))


def _signed_in(request: AnyRequest, tokens: TokenPair, settings: Settings) -> Response[TokenAnswer]:
    answer = accounts.token_answer(tokens, time.time())
    lifetime = settings.auth.refresh_token_days * _DAY_S
    session = _cookie(request, SESSION_COOKIE, tokens.access_token, "/", answer.expires_in)
    refreshing = _cookie(request, REFRESH_COOKIE, tokens.refresh_token, _REFRESH_PATH, lifetime)
    return Response(answer, cookies=[session, refreshing])


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
