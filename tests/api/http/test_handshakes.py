"""WebSocket handshakes that are refused: with the status and the error of the dialect (F41)."""

import json
from typing import Any

import pytest

from tests.api.application import Api

HTTP_ONLY = (
    "/v1/responses", "/v1/responses/", "/v1/messages", "/v1/models/starter", "/health",
    "/api/v1/tasks/t/events", "//v1//messages",
)  # fmt: skip


async def handshake(api: Api, path: str, *headers: tuple[bytes, bytes]) -> list[Any]:
    """What the application sends to a handshake."""
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "websocket", "http_version": "1.1", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "ws",
        "headers": [(b"host", b"a.test"), *headers],
        "client": ("127.0.0.1", 1234), "server": ("a.test", 80), "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    await api.app(scope, receive, send)
    return sent


@pytest.mark.parametrize("path", HTTP_ONLY)
async def test_handshake_when_the_path_is_http_only_then_426(path: str, api: Api) -> None:
    start, body = await handshake(api, path)
    headers = {name.lower(): value for name, value in start["headers"]}
    assert start["type"] == "websocket.http.response.start"
    assert start["status"] == 426
    assert headers[b"upgrade"] == b"HTTP/1.1"
    assert headers[b"connection"] == b"Upgrade"
    assert headers[b"x-request-id"]
    assert body["type"] == "websocket.http.response.body"
    assert "HTTP request" in body["body"].decode()
    if path.startswith("/v1/responses"):
        assert json.loads(body["body"])["error"]["type"] == "invalid_request_error"


async def refusal(api: Api, path: str, *headers: tuple[bytes, bytes]) -> tuple[int, Any]:
    start, body = await handshake(api, path, *headers)
    return start["status"], json.loads(body["body"])


async def test_handshake_when_the_path_is_unknown_then_404_of_the_dialect(api: Api) -> None:
    status, body = await refusal(api, "/v1/chat/nothing")
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    status, body = await refusal(api, "/nothing")
    assert (status, body["error"]["code"]) == (404, "RESOURCE_NOT_FOUND")


async def test_handshake_when_the_caller_may_not_then_the_guard_s_error(api: Api) -> None:
    status, body = await refusal(api, "/api/v2/connect")
    assert (status, "Authorization" in body["message"]) == (401, True)
    key = b"Bearer " + api.keys["viewer"].encode()
    status, body = await refusal(api, "/api/v2/connect", (b"authorization", key))
    assert (status, "sandbox" in body["message"]) == (403, True)


async def test_handshake_when_it_has_a_body_then_400(api: Api) -> None:
    status, body = await refusal(api, "/api/v2/connect", (b"content-length", b"2"))
    assert (status, "GET" in body["message"]) == (400, True)
