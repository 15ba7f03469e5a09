"""Origins: parsing, comparison, and the requests that need one."""

from typing import Any, cast

import pytest

from appliance.api.http.origins import Origin, is_same_origin, parse_origin
from tests.api.application import Api


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://a.test", Origin("http", "a.test", 80)),
        ("https://A.test", Origin("https", "a.test", 443)),
        ("https://a.test:8443", Origin("https", "a.test", 8443)),
        ("http://[::1]:8000", Origin("http", "::1", 8000)),
        *((text, None) for text in ("http://[", "null", "", "a.test", "ftp://a.test", "http://")),
        *((text, None) for text in ("http://a.test:x", "http://a.test:99999", "http://[x]")),
    ],
)
def test_origin_when_parsed_then_its_parts_or_none(text: str, origin: Origin | None) -> None:
    assert parse_origin(text) == origin


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "same"),
    [
        ("http", "a.test", "http://a.test", True),
        ("http", "a.test:80", "http://a.test", True),
        ("https", "a.test", "https://a.test:443", True),
        ("ws", "a.test:8000", "http://a.test:8000", True),
        ("http", "a.test", "https://a.test", False),
        ("https", "a.test", "http://a.test", False),
        ("http", "a.test", "http://b.test", False),
        ("http", "a.test", "http://a.test:8000", False),
        ("http", "[", "http://[", False),
        ("http", "", "null", False),
    ],
)
def test_origin_when_compared_then_scheme_host_and_port_count(
    scheme: str, host: str, origin: str, same: bool
) -> None:
    """F75"""
    scope = {"scheme": scheme, "headers": [(b"host", host.encode())]}
    assert is_same_origin(cast("Any", scope), origin) == same


@pytest.mark.parametrize("origin", ["http://[", "https://server.test", "null", "http://a.test"])
@pytest.mark.parametrize("path", ["/api/v1/execute", "/api/v1/auth/refresh"])
async def test_cookie_when_the_origin_is_malformed_or_another_then_403(
    origin: str, path: str, api: Api
) -> None:
    """F75"""
    cookies = {"async_coder_session": api.keys["alice"], "async_coder_refresh": "mcr-x"}
    async with api.client(None) as client:
        headers = {
            "Origin": origin,
            "Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items()),
        }
        answer = await client.post(path, json={}, headers=headers)
    assert answer.status_code == 403
    assert "needs an Origin header" in answer.json()["message"]


@pytest.mark.parametrize("origin", ["http://[", "http://a.test"])
async def test_development_key_when_the_origin_is_malformed_or_another_then_403(
    origin: str, api: Api
) -> None:
    """F75"""
    async with api.client(None, base_url="http://localhost") as client:
        answer = await client.post("/api/v1/auth/keys/dev", headers={"Origin": origin})
        assert answer.status_code == 403
        assert (await client.post("/api/v1/auth/keys/dev")).status_code == 200
