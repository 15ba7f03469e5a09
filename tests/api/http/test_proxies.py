"""The client of a request behind proxies: only trusted ones are believed."""

import time
from pathlib import Path
from typing import Any

import pytest

from appliance.api.http.proxies import TrustedProxies
from appliance.config.settings import AuthSettings, LimitSettings, ServerSettings
from appliance.errors import ConfigError
from tests.api.application import open_api, settings_with

_TRUSTED = ("127.0.0.1", "10.1.0.0/16", "2001:db8::/32")


def _applied(peer: str, *headers: tuple[str, str], trusted: tuple[str, ...] = _TRUSTED) -> Any:
    scope: Any = {
        "type": "http",
        "client": (peer, 4711),
        "scheme": "http",
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    TrustedProxies(trusted).apply(scope)
    return scope["client"][0], scope["scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "caller"),
    [
        ("127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:127.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["198.51.100.1, 203.0.113.9, 10.1.9.9"], "203.0.113.9"),
        ("10.1.2.3", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.1.2.3", ["10.1.0.7, 10.1.0.8"], "10.1.0.7"),
        ("2001:db8::1", ["[2001:4860::8]:443"], "2001:4860::8"),
        ("127.0.0.1", ["203.0.113.9:5123"], "203.0.113.9"),
        ("127.0.0.1", ["203.0.113.9, nonsense"], "127.0.0.1"),
        ("127.0.0.1", ["127.0.0.1, unknown, 10.1.2.3"], "10.1.2.3"),
        ("127.0.0.1", [", ,"], "127.0.0.1"),
        ("127.0.0.1", [], "127.0.0.1"),
        ("203.0.113.66", ["127.0.0.1"], "203.0.113.66"),
        ("10.2.0.1", ["127.0.0.1"], "10.2.0.1"),
        ("", ["127.0.0.1"], ""),
    ],
)
def test_caller_when_forwarded_then_the_last_untrusted_address(
    peer: str, forwarded: list[str], caller: str
) -> None:
    assert _applied(peer, *(("x-forwarded-for", each) for each in forwarded))[0] == caller


@pytest.mark.parametrize(
    ("peer", "told", "scheme"),
    [
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "http, HTTPS", "https"),
        ("127.0.0.1", "javascript", "http"),
        ("203.0.113.66", "https", "http"),
    ],
)
def test_scheme_when_forwarded_then_accepted_from_a_trusted_proxy_only(
    peer: str, told: str, scheme: str
) -> None:
    assert _applied(peer, ("x-forwarded-proto", told))[1] == scheme


def test_headers_when_nobody_is_trusted_then_they_say_nothing() -> None:
    told = (("x-forwarded-for", "127.0.0.1"), ("x-forwarded-proto", "https"))
    assert _applied("203.0.113.66", *told, trusted=()) == ("203.0.113.66", "http")


@pytest.mark.parametrize("name", ["proxy.example.com", "10.0.0.1/8", ""])
def test_setting_when_it_is_no_network_then_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.trusted_proxies"):
        TrustedProxies([name])


async def test_limit_when_an_attacker_forges_the_header_then_by_its_own_address(
    tmp_path: Path,
) -> None:
    settings = settings_with(
        limits=LimitSettings(requests_per_minute=3, burst=3),
        server=ServerSettings(trusted_proxies=("10.1.0.0/16",)),
    )
    async with open_api(tmp_path / "server.db", settings) as api:
        for address, last in (("203.0.113.66", 429), ("10.1.2.3", 401)):
            async with api.client(None, address=address) as client:
                statuses = [
                    (await client.get("/api/v1/tasks", headers=_from(f"198.51.100.{at}")))
                    for at in range(4)
                ]
            assert [each.status_code for each in statuses] == [401, 401, 401, last]


async def test_login_when_an_attacker_forges_the_header_then_its_address_is_held_all_the_same(
    tmp_path: Path,
) -> None:
    settings = settings_with(
        auth=AuthSettings(login_attempts_per_address=2),
        server=ServerSettings(trusted_proxies=("10.1.0.0/16",)),
    )
    # A login has to wait for a second after the last failure: here none passes.
    now = time.time()
    async with open_api(tmp_path / "server.db", settings, clock=lambda: now) as api:
        for address, last in (("203.0.113.66", 429), ("10.1.2.3", 401)):
            async with api.client(None, address=address) as client:
                for at, expected in enumerate((401, 401, last)):
                    body = {"username": f"user{address}{at}", "password": "wrong-password"}
                    answer = await client.post(
                        "/api/v1/auth/login", json=body, headers=_from(f"198.51.100.{at}")
                    )
                    assert answer.status_code == expected


async def test_dev_key_when_requested_through_a_local_proxy_then_403(
    tmp_path: Path,
) -> None:
    settings = settings_with(server=ServerSettings(trusted_proxies=("127.0.0.1",)))
    async with (
        open_api(tmp_path / "server.db", settings) as api,
        api.client(None, base_url="http://localhost") as client,
    ):
        path = "/api/v1/auth/keys/dev"
        assert (await client.post(path)).is_success
        assert (await client.post(path, headers=_from("127.0.0.1"))).status_code == 403


async def test_answer_when_the_proxy_speaks_tls_then_hsts(
    tmp_path: Path,
) -> None:
    settings = settings_with(server=ServerSettings(trusted_proxies=("127.0.0.1",)))
    async with open_api(tmp_path / "server.db", settings) as api:
        for address, told in (("127.0.0.1", True), ("203.0.113.66", False)):
            async with api.client(address=address) as client:
                answer = await client.get("/health", headers={"X-Forwarded-Proto": "https"})
            assert ("strict-transport-security" in answer.headers) is told


def _from(address: str) -> dict[str, str]:
    return {"X-Forwarded-For": address}
