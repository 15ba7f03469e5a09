"""Limits of request bodies: bytes by route, values in large ones, forms."""

import json
from typing import Any

import httpx
import pytest

from appliance.api.http.body_decoder import COUNTED_BYTES, MAX_VALUES
from tests.api.application import Api

TASK: dict[str, Any] = {"prompt": "Write add(a, b)"}
MANY = b'{"prompt": "x", "context": {"x": [' + b"0," * MAX_VALUES + b"0]}}"


@pytest.mark.parametrize("path", ["login", "refresh"])
async def test_body_when_larger_than_a_route_without_a_key_allows_then_413(
    path: str, api: Api
) -> None:
    """F63"""
    async with api.client(None) as client:
        body = json.dumps({"email": "a", "password": "b", "x": "y" * 17_000})
        answer = await client.post(f"/api/v1/auth/{path}", content=body)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "PAYLOAD_TOO_LARGE"


@pytest.mark.parametrize("path", ["/api/v1/execute", "/v1/chat/completions", "/v1/messages"])
async def test_body_when_it_has_too_many_values_then_413(
    path: str, client: httpx.AsyncClient
) -> None:
    """F63"""
    answer = await client.post(path, content=MANY, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert f"more than {MAX_VALUES} JSON values" in answer.text


@pytest.mark.parametrize("body", [MANY[:-1], b"[" * 200_000, b'{"prompt": "' + b"a" * 200_000])
async def test_body_when_large_and_malformed_then_400(
    body: bytes, client: httpx.AsyncClient
) -> None:
    answer = await client.post("/api/v1/execute", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == "body"


async def test_body_when_large_with_few_values_then_accepted(client: httpx.AsyncClient) -> None:
    files = [{"path": "a.py", "content": "x = '\"\\\u00e9'\n" * 20_000}]
    body = TASK | {"files": files}
    assert len(json.dumps(body)) > COUNTED_BYTES
    assert (await client.post("/api/v1/execute", json=body)).status_code == 200


async def test_form_when_large_then_413_and_json_is_advised(client: httpx.AsyncClient) -> None:
    forms: list[dict[str, Any]] = [
        {"data": {"prompt": "x" * 70_000}},
        {"files": {"prompt": (None, "x" * 70_000)}},
    ]
    for sent in forms:
        answer = await client.post("/api/v1/execute", **sent)
        assert answer.status_code == 413
        assert "send JSON" in answer.text


async def test_body_when_json_is_declared_as_a_form_then_read_as_json(
    client: httpx.AsyncClient,
) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await client.post("/api/v1/execute", content=json.dumps(TASK), headers=headers)
    assert answer.status_code == 200
