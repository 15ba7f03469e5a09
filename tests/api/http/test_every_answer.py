"""Properties of all responses: error shape, common headers, CORS, size limit, paths."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from appliance.api.http.errors import STATUS_BY_CODE
from appliance.config.settings import ServerSettings, Settings
from appliance.errors import ApplianceError
from tests.api.application import Api, settings_with

V0 = "application/vnd.monkey-coder.v0+json"
PATHS = [
    ("GET", "/health"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
    ("GET", "/api/docs"),
    ("GET", "/api/docs/openapi.json"),
    ("GET", "/api/v1/tasks"),
    ("GET", "/api/v1/nothing"),
    ("DELETE", "/api/v1/execute"),
    ("POST", "/api/v1/execute"),
    ("GET", "/nothing"),
    ("OPTIONS", "/api/v1/tasks"),
]
ALLOWED = "http://localhost:3000"


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    given = getattr(request, "param", ServerSettings(cors_origins=(ALLOWED,)))
    return settings_with(server=given)


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_answer_when_any_path_then_the_common_headers(
    method: str, path: str, client: httpx.AsyncClient
) -> None:
    headers = (await client.request(method, path)).headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-xss-protection"] == "1; mode=block"
    assert "strict-transport-security" not in headers
    if path.startswith("/api/v1"):
        assert float(headers["x-process-time"]) >= 0
        assert headers["x-cache-status"] == "MISS"
        assert int(headers["x-ratelimit-limit"]) >= int(headers["x-ratelimit-remaining"])
        assert int(headers["x-ratelimit-reset"]) > 1_700_000_000
    for name in headers:
        assert len(headers.get_list(name)) == 1, name


async def test_answer_when_asked_by_https_then_strict_transport(api: Api) -> None:
    async with api.client(base_url="https://server.test") as client:
        headers = (await client.get("/health")).headers
    assert headers["strict-transport-security"].startswith("max-age=")


@pytest.mark.parametrize("given", ["abc-123", "a" * 128])
async def test_request_id_when_sane_then_echoed(given: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/nothing", headers={"X-Request-ID": given})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == given


@pytest.mark.parametrize("given", ["a b", "a" * 129, "", "<script>", "\u00e9"])
async def test_request_id_when_odd_then_our_own(given: str, client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/nothing", headers=[(b"X-Request-ID", given.encode())])
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/api/v1/nothing", "/api/v1", "/nothing", "/api/v1/tasks/a/b/c"])
async def test_error_when_the_path_is_unknown_then_404_in_shape(
    path: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(path)
    body = answer.json()
    assert answer.status_code == 404
    assert body["error"]["code"] == "RESOURCE_NOT_FOUND"
    assert body["detail"] == body["message"] == body["error"]["message"]
    assert body["timestamp"].endswith("Z")
    assert body["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("path", "method"), [("execute", "POST"), ("events", "GET")])
async def test_error_when_the_method_is_wrong_then_405_with_allow(
    path: str, method: str, client: httpx.AsyncClient
) -> None:
    answer = await client.put(f"/api/v1/{path}")
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {method, "OPTIONS"}
    assert answer.json()["error"]["code"] == "METHOD_NOT_ALLOWED"


async def test_error_when_version_0_is_asked_for_then_error_is_a_string(
    client: httpx.AsyncClient,
) -> None:
    answer = await client.post(
        "/api/v1/execute", json={"prompt": "x", "persona": "king"}, headers={"Accept": V0}
    )
    body = answer.json()
    assert answer.status_code == 400
    assert body["error"] == "validation_error"
    assert body["message"].startswith("persona: must be one of")
    assert body["details"]["field"] == "persona"


async def test_error_when_something_breaks_then_500_without_the_reason(
    api: Api, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("SELECT secret FROM /var/lib/server.db")

    monkeypatch.setattr(api.services.tasks, "get", broken)
    answer = await client.get("/api/v1/tasks/x")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "INTERNAL_ERROR"
    assert answer.json()["error"]["details"] == {}
    for leak in ("SELECT", "server.db", "RuntimeError", "Traceback", "appliance"):
        assert leak not in answer.text


def test_statuses_when_an_error_is_added_to_the_tree_then_it_has_one() -> None:
    def codes(kind: type[ApplianceError]) -> set[str]:
        return {kind.code}.union(*(codes(each) for each in kind.__subclasses__()))

    assert codes(ApplianceError) <= set(STATUS_BY_CODE)


@pytest.mark.parametrize("path", ["//api/v1//tasks", "/api/v1/tasks/", "//api//v1//tasks///"])
async def test_path_when_slashes_are_doubled_then_collapsed(
    path: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(f"http://server.test{path}")
    assert answer.status_code == 200
    assert "x-ratelimit-limit" in answer.headers


async def test_health_when_slashes_are_doubled_then_found(client: httpx.AsyncClient) -> None:
    assert (await client.get("http://server.test//health")).status_code == 200
    unknown = await client.get("http://server.test//api//v1//nothing")
    assert unknown.json()["error"]["code"] == "RESOURCE_NOT_FOUND"


SMALL = ServerSettings(max_body_bytes=1000)


@pytest.mark.parametrize("settings", [SMALL], indirect=True)
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("kind", ["application/json", "application/x-www-form-urlencoded"])
async def test_body_when_too_large_then_413(
    chunked: bool, kind: str, client: httpx.AsyncClient
) -> None:
    body = json.dumps({"prompt": "a" * 2000}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    content: Any = pieces() if chunked else body
    for path in ("/api/v1/execute", "/api/v1/auth/login"):
        answer = await client.post(path, content=content, headers={"Content-Type": kind})
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"
        content = pieces() if chunked else body


@pytest.mark.parametrize("settings", [SMALL], indirect=True)
async def test_body_when_as_large_as_allowed_then_read(client: httpx.AsyncClient) -> None:
    shell = len(b'{"prompt":""}')
    body = b'{"prompt":"%s"}' % (b"a" * (1000 - shell))
    assert (await client.post("/api/v1/execute", content=body)).status_code == 200


async def test_cors_when_the_origin_is_listed_then_the_preflight_allows_it(
    client: httpx.AsyncClient,
) -> None:
    asked = {
        "Origin": ALLOWED,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, last-event-id",
    }
    answer = await client.options("/api/v1/execute", headers=asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert "authorization" in answer.headers["access-control-allow-headers"].lower()
    assert answer.headers["access-control-allow-credentials"] == "true"


@pytest.mark.parametrize("path", ["/api/v1/tasks", "/api/v1/nothing"])
async def test_cors_when_the_origin_is_listed_then_answers_allow_it(
    path: str, client: httpx.AsyncClient
) -> None:
    answer = await client.get(path, headers={"Origin": ALLOWED})
    assert answer.headers["access-control-allow-origin"] == ALLOWED
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]


async def test_cors_when_the_origin_is_not_listed_then_not_allowed(
    client: httpx.AsyncClient,
) -> None:
    asked = {"Origin": "http://evil.test", "Access-Control-Request-Method": "POST"}
    preflight = await client.options("/api/v1/execute", headers=asked)
    answer = await client.get("/api/v1/tasks", headers={"Origin": "http://evil.test"})
    assert "access-control-allow-origin" not in preflight.headers
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("settings", [ServerSettings()], indirect=True)
async def test_cors_when_no_origin_is_set_then_no_cors_headers(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/v1/tasks", headers={"Origin": ALLOWED})
    assert not [name for name in answer.headers if name.startswith("access-control")]
