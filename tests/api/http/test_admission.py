"""What is refused before routing: Host headers, and too many requests of one client."""

from typing import Any

import pytest

from appliance.api.http.admission import Admission
from appliance.api.http.body_deadline import BodyDeadlines
from appliance.config.settings import ServerSettings
from appliance.errors import ApplianceError, RateLimited

HOST = (b"host", b"server.test")


def scope(*headers: tuple[bytes, bytes], client: str = "192.0.2.1", version: str = "1.1") -> Any:
    return {"type": "http", "headers": headers, "client": (client, 1), "http_version": version}


def admission(limit: int = 2) -> Admission:
    return Admission(limit, lambda address: address == "192.0.2.99")


@pytest.mark.parametrize(
    ("headers", "version", "code"),
    [
        ((HOST,), "1.1", None),
        ((HOST, HOST), "1.1", "VALIDATION_ERROR"),
        ((HOST, (b"host", b"other.test")), "1.1", "VALIDATION_ERROR"),
        (((b"host", b""),), "1.1", "VALIDATION_ERROR"),
        ((), "1.1", "VALIDATION_ERROR"),
        (((b"host", b""),), "1", None),
    ],
)
def test_host_when_a_request_has_not_exactly_one_then_it_is_refused(
    headers: tuple[tuple[bytes, bytes], ...], version: str, code: str | None
) -> None:
    """F75"""
    error = admission().enter(scope(*headers, version=version))
    assert (error and error.code) == code


def enter(limits: Admission, client: str) -> ApplianceError | None:
    return limits.enter(scope(HOST, client=client))


def test_client_when_it_has_too_many_requests_in_progress_then_the_next_is_refused() -> None:
    limits = admission()
    assert [enter(limits, "192.0.2.1") for _ in range(2)] == [None, None]
    assert isinstance(enter(limits, "192.0.2.1"), RateLimited)
    assert enter(limits, "192.0.2.2") is None
    for _ in range(2):
        limits.leave(scope(client="192.0.2.1"))
    assert enter(limits, "192.0.2.1") is None


def test_client_when_its_addresses_are_of_one_ipv6_network_then_they_count_together() -> None:
    limits = admission()
    assert [enter(limits, f"2001:db8::{number}") for number in range(2)] == [None, None]
    assert isinstance(enter(limits, "2001:db8::9"), RateLimited)
    assert enter(limits, "2001:db8:0:1::9") is None


def test_client_when_it_is_a_trusted_proxy_then_it_has_no_limit() -> None:
    limits = admission()
    assert {enter(limits, "192.0.2.99") for _ in range(10)} == {None}


def test_body_when_the_settings_name_a_rate_then_the_error_says_so() -> None:
    deadlines = BodyDeadlines(ServerSettings(body_timeout_s=3.0, body_bytes_per_s=77))
    assert "77 bytes per second after the first 3 s" in deadlines.error().message
