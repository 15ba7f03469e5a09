"""WebSocket handshakes at paths that are served over HTTP only: 426 (F41)."""

import json
from typing import Any

import pytest

from tests.api.application import Api

HTTP_ONLY = (
    "/v1/responses", "/v1/responses/", "/v1/messages", "/v1/models/starter", "/health",
    "/api/v1/tasks/t/events",
)  # fmt: skip
OTHERS = ("/v1/nothing", "/v1/models/a/b", "/api/v2/connect")


async def handshake(api: Api, path: str) -> list[Any]:
    """What the application sends to a handshake without credentials."""
    received = iter([{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}])
    sent: list[Any] = []

    async def receive() -> Any:
        return next(received)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {
        "type": "websocket", "http_version": "1.1", "path": path, "raw_path": path.encode(),
        "query_string": b"", "root_path": "", "scheme": "ws", "headers": [(b"host", b"a.test")],
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


@pytest.mark.parametrize("path", OTHERS)
async def test_handshake_when_the_path_is_another_then_closed(path: str, api: Api) -> None:
    (close,) = await handshake(api, path)
    assert close["type"] == "websocket.close"
