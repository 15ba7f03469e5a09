"""Authentication: all ways to send credentials, and 401 before the body is read."""

import re
from typing import Any

import httpx
import pytest

from appliance.config.settings import LimitSettings, ServerSettings, Settings
from tests.api.application import Api, settings_with

PREFIXES = ("/api/v1", "/api/v2", "/v1")
PUBLIC = {"/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/keys/dev"}


@pytest.fixture
def settings() -> Settings:
    return settings_with()


async def test_request_when_without_credentials_then_401_before_the_body_is_read(
    api: Api,
) -> None:
    asked = protected(api)
    assert ("POST", "/api/v1/execute") in asked
    assert ("POST", "/v1/messages") in asked
    assert ("POST", "/v1/chat/completions") in asked
    async with api.client(None) as client:
        for method, path in asked:
            answer = await client.request(method, f"{path}?limit=x", content=b"{not json")
            assert answer.status_code == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()


def protected(api: Api) -> list[tuple[str, str]]:
    """All routes that need credentials."""
    return [
        (str(method), re.sub(r"{[^}]*}", "x", route.path))
        for route in api.app.routes
        if route.path.startswith(PREFIXES) and route.path not in PUBLIC
        for method in set(route.methods) - {"OPTIONS"}  # pyright: ignore
    ]


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer {key}"},
        {"Authorization": "bearer  {key} "},
        {"Authorization": "{key}"},
        {"X-API-Key": "{key}"},
        {"Cookie": "async_coder_session={key}"},
        {"Authorization": "", "X-API-Key": "{key}"},
        {"Authorization": "Bearer ", "Cookie": "async_coder_session={key}"},
    ],
)
async def test_credentials_when_sent_in_any_way_then_accepted(
    headers: dict[str, str], api: Api
) -> None:
    sent = {name: value.format(key=api.keys["bob"]) for name, value in headers.items()}
    async with api.client(None) as client:
        answer = await client.get("/api/v1/auth/status", headers=sent)
    assert answer.status_code == 200
    assert answer.json()["user"]["username"] == "bob"


@pytest.mark.parametrize(
    "credential",
    ["mk-wrong", "x", "a.b.c", "Bearer", "mk-" + "a" * 43, "é", "a" * 100_000],
)
async def test_credentials_when_wrong_then_401(credential: str, api: Api) -> None:
    async with api.client(None) as client:
        headers = [(b"Authorization", f"Bearer {credential}".encode())]
        answer = await client.get("/api/v1/tasks", headers=headers)
    assert answer.status_code == 401
    assert credential not in answer.text or len(credential) < 7


async def test_credentials_when_the_header_is_wrong_then_no_cookie_helps(api: Api) -> None:
    headers = {"Authorization": "Bearer wrong", "X-API-Key": api.keys["bob"]}
    async with api.client(None) as client:
        assert (await client.get("/api/v1/tasks", headers=headers)).status_code == 401


LIMITED = settings_with(limits=LimitSettings(requests_per_minute=5, burst=3))


@pytest.mark.parametrize("settings", [LIMITED])
async def test_limit_when_the_burst_is_spent_then_429_until_it_refills(
    api: Api, client: httpx.AsyncClient
) -> None:
    for left in (4, 3, 2):
        answer = await client.get("/api/v1/tasks")
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit"] == "5"
        assert answer.headers["x-ratelimit-remaining"] == str(left)
        assert int(answer.headers["x-ratelimit-reset"]) > 1_700_000_000
    refused = await client.get("/api/v1/tasks")
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-remaining"] == "2"
    assert refused.json()["error"]["code"] == "RATE_LIMIT_EXCEEDED"
    async with api.client("bob") as bob:
        assert (await bob.get("/api/v1/tasks")).status_code == 200


@pytest.mark.parametrize("settings", [LIMITED])
async def test_limit_when_credentials_are_guessed_then_429_for_that_address_only(
    api: Api, client: httpx.AsyncClient
) -> None:
    async with api.client(None, key="mk-guess", address="192.0.2.9") as guesser:
        found = [(await guesser.get("/api/v1/tasks")).status_code for _ in range(5)]
    assert found == [401, 401, 401, 429, 429]
    assert (await client.get("/api/v1/tasks")).status_code == 200


@pytest.mark.parametrize("settings", [settings_with(server=ServerSettings(metrics_public=False))])
async def test_metrics_when_not_public_then_for_administrators_only(api: Api) -> None:
    statuses: dict[Any, int] = {}
    for user in (None, "alice", "admin"):
        async with api.client(user) as client:
            statuses[user] = (await client.get("/metrics")).status_code
    assert statuses == {None: 401, "alice": 403, "admin": 200}
