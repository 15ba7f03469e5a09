"""The route table against the real routes, and every role and scope against the table."""

import re
import time
from typing import Any, cast

import httpx
import pytest

from appliance.api.http.route_table import ROUTES, WEBSOCKET, Route, served_routes
from appliance.config.settings import ServerSettings, Settings
from appliance.domain.users import Role, Scope
from appliance.services.accounts import api_key_rules, tokens
from tests.api.application import Api, add_user, settings_with
from tests.support.polling import until

SCOPES: tuple[tuple[Scope, ...], ...] = ((), *((scope,) for scope in Scope), tuple(Scope)[1:])
VIEWER = {Scope.TASKS_READ, Scope.KEYS}
PRIVATE = [row for row in ROUTES if not row.public]


@pytest.fixture
def settings() -> Settings:
    return settings_with(server=ServerSettings(metrics_public=False))


def test_table_when_compared_with_the_served_routes_then_each_has_one_row(api: Api) -> None:
    rows = [(row.method, row.path) for row in ROUTES]
    assert len(rows) == len(set(rows))
    assert {(method, path) for method, path, _ in served_routes(api.app)} == set(rows)


def test_table_when_a_route_is_public_then_it_is_one_of_these() -> None:
    public = {row.path for row in ROUTES if row.public}
    health = {"/health", "/healthz", "/health/readiness"}
    login = {f"/api/v1/auth/{name}" for name in ("login", "refresh", "keys/dev")}
    docs = {"", "/openapi.json", "/static/{name}", "/{path}"}
    assert public == health | login | {f"/api/docs{name}" for name in docs}


@pytest.mark.parametrize("role", list(Role))
async def test_routes_when_each_scope_of_a_role_tries_each_then_the_table_holds(
    role: Role, api: Api
) -> None:
    """F66"""
    await add_user(api, "tester", role)
    for scopes in SCOPES:
        key = await _insert_key(api, "tester", scopes)
        async with api.client(None, key=key) as client:
            for row in PRIVATE:
                status = await _try(api, client, key, row)
                allowed = _is_allowed(row, role, set(scopes))
                assert (status not in (401, 403)) == allowed, (row, role, scopes, status)


async def test_routes_when_there_is_no_key_then_only_public_ones_answer(api: Api) -> None:
    async with api.client(None) as client:
        for row in ROUTES:
            # The credential of one is in the body, that of the other is the client's address.
            if row.path not in ("/api/v1/auth/refresh", "/api/v1/auth/keys/dev"):
                status = await _try(api, client, "", row)
                assert (status not in (401, 403)) == row.public, (row, status)


@pytest.fixture
async def task_of_alice(api: Api) -> str:
    async with api.client("alice") as client:
        body = {"prompt": "Write add(a, b)", "task_id": "of-alice"}
        assert (await client.post("/api/v1/execute", json=body)).status_code == 200
    return "of-alice"


@pytest.mark.parametrize(
    ("scopes", "status"),
    [
        ((Scope.TASKS_READ,), 404),
        ((Scope.TASKS_READ, Scope.TASKS_WRITE), 404),
        ((Scope.ADMIN,), 403),
        ((Scope.TASKS_READ, Scope.ADMIN), 200),
        ((Scope.ALL,), 200),
    ],
)
async def test_task_of_another_user_when_read_by_an_administrators_key_then_by_scope(
    scopes: tuple[Scope, ...], status: int, api: Api, task_of_alice: str
) -> None:
    """F66"""
    key = await _insert_key(api, api.system.admin.user.username, scopes)
    async with api.client(None, key=key) as client:
        for path in ("", "/events"):
            answer = await client.get(f"/api/v1/tasks/{task_of_alice}{path}")
            assert answer.status_code == status


@pytest.mark.parametrize("user", ["alice", "admin"])
async def test_scope_admin_when_granted_then_by_administrators_only(user: str, api: Api) -> None:
    async with api.client(user) as client:
        answer = await client.post("/api/v1/auth/keys", json={"scopes": ["admin"]})
    assert answer.status_code == (200 if user == "admin" else 403)


def _is_allowed(row: Route, role: Role, scopes: set[Scope]) -> bool:
    of_key = set(Scope) if Scope.ALL in scopes else scopes
    if Scope.TASKS_WRITE in of_key:
        of_key = of_key | {Scope.CHAT}
    if role is Role.VIEWER:
        of_key = of_key & VIEWER
    return row.role in (None, role) and set(row.scopes) <= of_key


async def _try(api: Api, client: httpx.AsyncClient, key: str, row: Route) -> int:
    """The status of a request whose body, if it has one, or position in a stream is refused."""
    path = re.sub(r"{[^}]*}", "x", row.path)
    if row.method == WEBSOCKET:
        return await _try_websocket(api, path, key)
    body = b"{" if row.method == "POST" else b""
    headers = {"Last-Event-ID": "refused"}
    answer = await client.request(row.method, path, content=body, headers=headers)
    return answer.status_code


async def _try_websocket(api: Api, path: str, key: str) -> int:
    """101 if the handshake is accepted, else 403; 401 if the first message then lacks a token."""
    sent: list[dict[str, Any]] = []
    received = [{"type": "websocket.receive", "text": "{}"}, {"type": "websocket.connect"}]

    async def receive() -> dict[str, Any]:
        if received:
            return received.pop()
        await until(lambda: len(sent) > 1)
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "http_version": "1.1",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "ws",
        "headers": [(b"host", b"server.test"), (b"authorization", f"Bearer {key}".encode())],
        "client": ("127.0.0.1", 1234),
        "server": ("server.test", 80),
        "subprotocols": [],
    }
    await cast("Any", api.app)(scope, receive, send)
    if sent[0]["type"] != "websocket.accept":
        return 403
    return 401 if any('"UNAUTHORIZED"' in each.get("text", "") for each in sent) else 101


async def _insert_key(api: Api, username: str, scopes: tuple[Scope, ...]) -> str:
    """A key with exactly these scopes, whether or not the user could have been granted them."""
    user, secret = await api.services.accounts.users.get(username), tokens.new_api_key()
    new = api_key_rules.build_new_key(
        secret, user.id, name="x", scopes=scopes, created_at=time.time(), expires_at=None
    )
    async with api.system.db.write() as tx:
        await api_key_rules.insert_key(tx, new)
    return secret
