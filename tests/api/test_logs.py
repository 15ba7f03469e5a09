"""The access log and the security events of real requests; no secret gets into either."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import pytest
import structlog

from appliance import telemetry
from appliance.config.settings import LogSettings
from tests.api.application import PASSWORD, Api, add_user, open_api, settings_with
from tests.support.polling import until

CANARY = "canary7secret"
HEADERS = ("User-Agent", "Referer", "X-Labels", "Accept", "X-Forwarded-For", "Last-Event-ID")


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def log_settings(request: pytest.FixtureRequest) -> LogSettings:
    return getattr(request, "param", LogSettings(format="json"))


@pytest.fixture
async def logged(
    tmp_path: Path,
    log_settings: LogSettings,
) -> AsyncIterator[Api]:
    telemetry.configure_logging(log_settings)
    async with open_api(tmp_path / "server.db", settings_with(log=log_settings)) as api:
        await add_user(api)
        yield api


class Lines:
    """The lines on stderr, as far as they were written."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""
        capsys.readouterr()

    async def wait_for(self, number: int) -> list[str]:
        def enough() -> list[str] | None:
            self._text += self._capsys.readouterr().err
            lines = self._text.splitlines()
            return lines if len(lines) >= number else None

        return await until(enough) or []


def entries(capsys: pytest.CaptureFixture[str], event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_access_log_when_requests_are_answered_then_who_what_and_how_long(
    logged: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """F67"""
    lines = Lines(capsys)
    async with logged.client("alice", address="192.0.2.7") as client:
        await client.get("/api/v1/tasks/unknown", headers={"X-Request-ID": "mine"})
        await client.request("BREW", "/made/up?x=1")
        await client.get("/healthz")
    async with logged.client(None) as client:
        await client.get("/api/v1/tasks")
    found, unmatched, refused = map(json.loads, await lines.wait_for(3))
    assert found["duration_ms"] >= 0
    assert found["timestamp"].endswith("Z")
    assert found | {"duration_ms": 0, "timestamp": ""} == {
        "event": "request",
        "level": "info",
        "timestamp": "",
        "request_id": "mine",
        "client": "192.0.2.7",
        "user": "alice",
        "key": logged.keys["alice"][:11],
        "method": "GET",
        "route": "/api/v1/tasks/{task_id}",
        "status": 404,
        "duration_ms": 0,
    }
    assert (unmatched["method"], unmatched["route"]) == ("other", "unmatched")
    assert (refused["user"], refused["key"], refused["status"]) == (None, None, 401)


@pytest.mark.parametrize("log_settings", [LogSettings()], indirect=True)
async def test_access_log_when_text_then_one_line_to_read(
    logged: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = Lines(capsys)
    async with logged.client("alice") as client:
        await client.get("/api/v1/tasks")
    (line,) = await lines.wait_for(1)
    assert " [info     ] request  GET /api/v1/tasks 200 duration_ms=" in line
    assert " client=127.0.0.1 user=alice key=mk-" in line


@pytest.mark.parametrize("settings", [LogSettings(access=False), LogSettings(level="warning")])
async def test_access_log_when_off_or_below_the_level_then_nothing(
    settings: LogSettings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.configure_logging(settings)
    async with (
        open_api(tmp_path / "server.db", settings_with(log=settings)) as api,
        api.client("alice") as client,
    ):
        capsys.readouterr()
        await client.get("/api/v1/tasks")
    assert capsys.readouterr().err == ""


async def test_security_events_when_they_happen_then_logged(
    logged: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """F67"""
    telemetry.configure_logging(LogSettings(format="json"))
    accounts = logged.services.accounts
    await add_user(logged, "dave")
    login = {"email": "carol", "password": PASSWORD}
    async with logged.client(None, address="192.0.2.7") as client:
        await client.post("/api/v1/auth/login", json=login | {"password": "wrong"})
        await client.post("/api/v1/auth/login", json=login | {"email": "nobody"})
        answer = await client.post("/api/v1/auth/login", json=login)
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        key = (await client.post("/api/v1/auth/keys", headers=headers)).json()
        await client.delete(f"/api/v1/auth/keys/{key['key_id']}", headers=headers)
        await client.get("/api/v1/tasks", headers={"Authorization": f"Bearer {key['key']}"})
    await accounts.users.set_password("carol", PASSWORD + "2")
    await accounts.users.set_plan("carol", "team")
    await accounts.users.set_disabled("carol", True)
    await accounts.users.set_disabled("carol", False)
    events = entries(capsys, "security")
    assert (events[0]["action"], events[0]["user"]) == ("user_created", "dave")
    carol = events[1:]
    assert [each["action"] for each in carol] == [
        "login_failed",
        "login_failed",
        "login_succeeded",
        "key_created",
        "key_revoked",
        "credential_rejected",
        "password_changed",
        "plan_changed",
        "user_disabled",
        "user_enabled",
    ]
    failed, unknown, succeeded = carol[:3]
    assert (failed["user"], failed["client"], failed["level"]) == ("carol", "192.0.2.7", "warning")
    assert (unknown["user"], succeeded["user"]) == (None, "carol")
    assert carol[3]["key_id"] == carol[4]["key_id"] == key["key_id"]
    assert carol[5]["reason"] == "INVALID_TOKEN"


@pytest.mark.parametrize("form", ["json", "text"])
async def test_log_when_secrets_are_sent_in_every_place_then_it_has_none(
    form: Literal["json", "text"], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """F67"""
    settings = LogSettings(level="debug", format=form)
    telemetry.configure_logging(settings)
    async with open_api(tmp_path / "server.db", settings_with(log=settings)) as api:
        await add_user(api)
        secrets = {CANARY, PASSWORD, *(key[11:] for key in api.keys.values())}
        secrets |= await _send_secrets(api)
        for path in ("/api/v1/events", "/api/v2/connect"):
            await _open_socket(api, path, f"after=x&token=mk-{CANARY}")
    log = capsys.readouterr().err
    assert "/api/v1/execute" in log
    assert not [secret for secret in secrets if secret in log]


async def _send_secrets(api: Api) -> set[str]:
    """Send the canary in every part of requests; returns the secrets of answers."""
    key = f"mk-{CANARY}" + "a" * (43 - len(CANARY))
    async with api.client("alice") as client:
        for path in ("/api/v1/execute", "/v1/chat/completions", "/v1/messages", "/api/v2/execute"):
            for body in ({"prompt": CANARY, "x": CANARY}, {CANARY: [CANARY]}, CANARY):
                await client.post(path, json=body)
            await client.post(path, data={"prompt": CANARY})
            await client.post(path, content=f'{{"prompt": "{CANARY}'.encode())
        for name in HEADERS:
            await client.get("/api/v1/tasks", headers={name: CANARY})
        await client.get("/api/v1/tasks", headers={"X-Request-ID": key})
        await client.get(f"/api/v1/tasks/{CANARY}?cursor={CANARY}")
        await client.get(f"/{CANARY}")
        await client.request(CANARY.upper(), "/api/v1/tasks")
        await client.get(f"/v1/models/{CANARY}")
    async with api.client(None) as client:
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Authorization": f"Basic {CANARY}"},
            {"X-API-Key": key},
            {"Cookie": f"async_coder_session={CANARY}"},
        ):
            await client.get("/api/v1/tasks", headers=headers)
        login = "/api/v1/auth/login"
        await client.post(login, json={"email": CANARY, "password": CANARY})
        await client.post(login, json={"email": "carol", "password": CANARY})
        await client.post("/api/v1/auth/refresh", json={"refresh_token": f"mcr-{CANARY}"})
        tokens = (await client.post(login, json={"email": "carol", "password": PASSWORD})).json()
        bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
        made = await client.post("/api/v1/auth/keys", json={"name": CANARY}, headers=bearer)
    return {tokens["access_token"], tokens["refresh_token"], made.json()["key"][11:]}


async def _open_socket(api: Api, path: str, query: str) -> None:
    """A handshake with this query, which is refused."""
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: Any = {
        "type": "websocket", "http_version": "1.1", "path": path, "raw_path": path.encode(),
        "query_string": query.encode(), "root_path": "", "scheme": "ws", "subprotocols": [],
        "headers": [(b"host", b"a.test")], "client": ("127.0.0.1", 1), "server": ("a.test", 80),
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    await cast("Any", api.app)(scope, receive, send)
    assert sent[0]["status"] == 401
    assert scope["query_string"] == b"after=x"
