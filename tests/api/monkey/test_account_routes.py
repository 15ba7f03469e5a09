"""/api/v1/auth: logging in and out, tokens, and keys."""

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from appliance.config.settings import AuthSettings
from tests.api.application import PASSWORD, Api, add_user, open_api, settings_with

LOGIN = {"email": "carol@example.com", "password": PASSWORD}


async def sign_in(client: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    answer = await client.post("/api/v1/auth/login", json=body or LOGIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
async def anyone(api: Api) -> Any:
    """A client without credentials of its own."""
    await add_user(api)
    async with api.client(None) as client:
        yield client


@pytest.mark.parametrize(
    "body",
    [
        {"json": LOGIN},
        {"json": {"username": "carol", "password": PASSWORD}},
        {"json": {"email": "carol", "password": PASSWORD}},
        {"data": LOGIN},
        {"files": {name: (None, value) for name, value in LOGIN.items()}},
        {"json": LOGIN | {"remember_me": True}},
    ],
)
async def test_login_when_right_then_tokens_and_the_user(
    body: dict[str, Any], anyone: httpx.AsyncClient
) -> None:
    answer = await anyone.post("/api/v1/auth/login", **body)
    tokens = answer.json()
    assert answer.status_code == 200, answer.text
    assert tokens["token_type"] == "bearer"
    assert tokens["expires_at"].endswith("Z")
    assert tokens["access_token"] != tokens["refresh_token"]
    assert tokens["user"]["email"] == "carol@example.com"
    assert tokens["user"]["id"].startswith("user_")
    assert tokens["user"]["credits"] == 100.0
    status = await anyone.get("/api/v1/auth/status", headers=bearer(tokens["access_token"]))
    assert status.json()["authenticated"] is True
    assert status.json()["user"]["username"] == "carol"


@pytest.mark.parametrize(
    "body",
    [
        {"json": {}},
        {"json": {"email": "carol@example.com"}},
        {"json": {"password": "x"}},
        {"json": {"email": 5, "password": "x"}},
        {"json": {"email": "a", "password": "x" * 2000}},
        {"json": []},
        {"content": b"{", "headers": {"Content-Type": "application/json"}},
        {"content": b""},
        {"data": {"email": "carol@example.com"}},
        {"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        {"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}},
        {"files": {"email": ("a.txt", b"carol"), "password": (None, PASSWORD)}},
    ],
)
async def test_login_when_malformed_then_422(
    body: dict[str, Any], anyone: httpx.AsyncClient
) -> None:
    answer = await anyone.post("/api/v1/auth/login", **body)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["code"] == "VALIDATION_ERROR"
    assert PASSWORD not in answer.text


async def test_login_when_a_field_is_missing_then_it_is_named(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post("/api/v1/auth/login", json={"email": "carol"})
    assert answer.json()["error"]["details"] == {"field": "password", "reason": "is required"}


@pytest.mark.parametrize(
    "body", [LOGIN | {"password": "wrong"}, {"email": "nobody@example.com", "password": "wrong"}]
)
async def test_login_when_wrong_then_401_with_the_same_words(
    body: dict[str, str], anyone: httpx.AsyncClient
) -> None:
    answer = await anyone.post("/api/v1/auth/login", json=body)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "INVALID_CREDENTIALS"
    assert answer.json()["message"] == "the email, username or password is wrong"
    assert "set-cookie" not in answer.headers


async def test_refresh_when_used_twice_then_401_and_the_session_ends(
    anyone: httpx.AsyncClient,
) -> None:
    first = await sign_in(anyone)
    anyone.cookies.clear()
    body = {"refresh_token": first["refresh_token"]}
    second = await anyone.post("/api/v1/auth/refresh", json=body)
    assert second.status_code == 200
    assert second.json()["user"] == first["user"]
    anyone.cookies.clear()
    again = await anyone.post("/api/v1/auth/refresh", json=body)
    assert again.status_code == 401
    latest = bearer(second.json()["access_token"])
    assert (await anyone.get("/api/v1/auth/status", headers=latest)).status_code == 401


@pytest.mark.parametrize(
    "body", [{"json": {"refresh_token": "mcr-nonsense"}}, {"json": {}}, {"content": b""}]
)
async def test_refresh_when_the_token_is_invalid_or_missing_then_401(
    body: dict[str, Any], anyone: httpx.AsyncClient
) -> None:
    answer = await anyone.post("/api/v1/auth/refresh", **body)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "INVALID_TOKEN"


async def test_refresh_when_access_token_is_sent_instead_then_401(
    anyone: httpx.AsyncClient,
) -> None:
    tokens = await sign_in(anyone)
    body = {"refresh_token": tokens["access_token"]}
    assert (await anyone.post("/api/v1/auth/refresh", json=body)).status_code == 401
    headers = bearer(tokens["refresh_token"])
    assert (await anyone.get("/api/v1/auth/status", headers=headers)).status_code == 401


async def test_refresh_when_the_cookie_is_used_then_only_from_our_own_page(
    anyone: httpx.AsyncClient,
) -> None:
    await sign_in(anyone)
    for origin, status in (("http://evil.test", 403), ("http://server.test", 200)):
        answer = await anyone.post("/api/v1/auth/refresh", headers={"Origin": origin})
        assert answer.status_code == status, answer.text
    assert (await anyone.post("/api/v1/auth/refresh")).status_code == 403


async def test_cookies_when_logged_in_then_hidden_from_scripts(anyone: httpx.AsyncClient) -> None:
    answer = await anyone.post("/api/v1/auth/login", json=LOGIN)
    cookies = answer.headers.get_list("set-cookie")
    assert [cookie.split("=")[0] for cookie in cookies] == [
        "async_coder_session",
        "async_coder_refresh",
    ]
    assert all("HttpOnly" in cookie and "SameSite=lax" in cookie for cookie in cookies)
    assert all("Secure" not in cookie for cookie in cookies)


async def test_cookies_when_the_request_uses_https_then_secure(api: Api) -> None:
    await add_user(api)
    async with api.client(None, base_url="https://server.test") as client:
        answer = await client.post("/api/v1/auth/login", json=LOGIN)
    assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))


async def test_session_cookie_when_sent_then_reads_and_own_pages_may_write(
    anyone: httpx.AsyncClient,
) -> None:
    await sign_in(anyone)
    assert (await anyone.get("/api/v1/tasks")).status_code == 200
    path, body = "/api/v1/execute", {"prompt": "Do it"}
    for headers, status in (
        ({}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "http://server.test.evil.test"}, 403),
        ({"Origin": "http://server.test"}, 200),
    ):
        answer = await anyone.post(path, json=body, headers=headers)
        assert answer.status_code == status, headers


async def test_logout_when_done_then_no_token_of_the_session_works(
    anyone: httpx.AsyncClient,
) -> None:
    tokens = await sign_in(anyone)
    anyone.cookies.clear()
    headers = bearer(tokens["access_token"])
    answer = await anyone.post("/api/v1/auth/logout", headers=headers)
    assert answer.status_code == 200
    assert answer.json() == {"message": "Successfully logged out"}
    assert all("Max-Age=0" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert (await anyone.get("/api/v1/auth/status", headers=headers)).status_code == 401
    body = {"refresh_token": tokens["refresh_token"]}
    assert (await anyone.post("/api/v1/auth/refresh", json=body)).status_code == 401


async def test_status_when_a_key_is_sent_then_its_user_and_scopes(api: Api) -> None:
    async with api.client("bob") as bob:
        body = (await bob.get("/api/v1/auth/status")).json()
    assert body["authenticated"] is True
    assert (body["method"], body["user"]["username"]) == ("api_key", "bob")
    assert body["permissions"] == ["*"]


async def test_keys_when_made_listed_and_revoked_then_each_says_so(
    api: Api, client: httpx.AsyncClient
) -> None:
    wanted = {"name": "ci", "permissions": ["tasks:read"], "expires_days": 30}
    made = (await client.post("/api/v1/auth/keys", json=wanted)).json()
    assert made["key"].startswith("mk-")
    assert (made["name"], made["permissions"], made["status"]) == ("ci", ["tasks:read"], "active")
    async with api.client(None, key=made["key"]) as narrow:
        assert (await narrow.get("/api/v1/tasks")).status_code == 200
        assert (await narrow.post("/api/v1/execute", json={"prompt": "x"})).status_code == 403
    listed = (await client.get("/api/v1/auth/keys")).json()
    assert [key["name"] for key in listed] == ["ci", "test"]
    assert all("key" not in key for key in listed)
    assert made["key"] not in str(listed)
    revoked = await client.delete(f"/api/v1/auth/keys/{made['key_id']}")
    assert (revoked.status_code, revoked.json()["status"]) == (200, "revoked")
    async with api.client(None, key=made["key"]) as gone:
        assert (await gone.get("/api/v1/tasks")).status_code == 401
    stats = (await client.get("/api/v1/auth/keys/stats")).json()
    assert (stats["total_keys"], stats["active_keys"], stats["revoked_keys"]) == (2, 1, 1)


async def test_key_when_of_another_user_then_404(api: Api, client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/auth/keys")).json()
    async with api.client("bob") as bob:
        answer = await bob.delete(f"/api/v1/auth/keys/{made['key_id']}")
    assert answer.status_code == 404
    assert (await client.get("/api/v1/auth/keys")).json()[0]["status"] == "active"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"permissions": ["everything"]}, "scopes"),
        ({"permissions": "tasks:read"}, "permissions"),
        ({"expires_days": -1}, "expires_days"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": "2001-01-01"}, "expires_at"),
    ],
)
async def test_key_when_asked_for_wrongly_then_the_field(
    body: dict[str, Any], field: str, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/api/v1/auth/keys", json=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["details"]["field"] == field


async def test_dev_key_when_from_this_machine_then_it_works(anyone: httpx.AsyncClient) -> None:
    here = {"Host": "127.0.0.1:8000", "Origin": "http://localhost:3000"}
    made = (await anyone.post("/api/v1/auth/keys/dev", headers=here)).json()
    assert made["key"].startswith("mk-")
    assert (made["status"], made["permissions"]) == ("active", ["*"])
    status = await anyone.get("/api/v1/auth/status", headers=bearer(made["key"]))
    assert status.json()["user"]["username"] == "dev"
    assert status.json()["session_expires"].endswith("Z")


async def test_dev_key_when_from_elsewhere_then_403_with_how_to_get_a_key(api: Api) -> None:
    async with api.client(None, address="192.0.2.7") as far:
        answer = await far.post("/api/v1/auth/keys/dev")
    assert answer.status_code == 403
    assert "key create" in answer.json()["message"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.com"},
        {"Origin": "https://page.example.com"},
        {"Origin": "null"},
        {"X-Forwarded-For": "192.0.2.7"},
        {"Forwarded": "for=192.0.2.7"},
        {"Host": "[broken"},
    ],
)
async def test_dev_key_when_relayed_by_a_page_or_a_proxy_then_403(
    headers: dict[str, str], anyone: httpx.AsyncClient
) -> None:
    answer = await anyone.post("/api/v1/auth/keys/dev", headers=headers)
    assert answer.status_code == 403


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Any:
    return settings_with(**getattr(request, "param", {}))


@pytest.mark.parametrize("settings", [{"auth": AuthSettings(dev_keys=False)}], indirect=True)
async def test_dev_key_when_turned_off_then_403(anyone: httpx.AsyncClient) -> None:
    assert (await anyone.post("/api/v1/auth/keys/dev")).status_code == 403


async def test_login_when_guessed_too_often_then_429_with_retry_after(tmp_path: Path) -> None:
    # The wait is one second since the last failure: here none passes.
    settings, now = settings_with(auth=AuthSettings(login_attempts_per_account=2)), time.time()
    async with (
        open_api(tmp_path / "server.db", settings, clock=lambda: now) as api,
        api.client(None) as anyone,
    ):
        await add_user(api)
        for _ in range(2):
            await anyone.post("/api/v1/auth/login", json=LOGIN | {"password": "wrong"})
        answer = await anyone.post("/api/v1/auth/login", json=LOGIN)
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
