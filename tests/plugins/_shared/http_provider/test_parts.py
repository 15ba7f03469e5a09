"""What the HTTP providers share: event streams, model lists, base URLs, error bodies."""

import asyncio
from collections.abc import Sequence

import pytest

from appliance.errors import ApplianceError, ProviderFailed
from plugins._shared.http_provider import error_body
from plugins._shared.http_provider.model_list_cache import (
    ListedModel,
    ModelListCache,
    parse_timestamp,
)
from plugins._shared.http_provider.options import build_base_url
from plugins._shared.http_provider.sse import EventTooLong, ServerEvent, SseParser

STREAM = (
    b"\xef\xbb\xbf: comment\r\nevent: one\r\ndata: a\r\ndata:b\r\n\r\n"
    b"data\n\n\n\nid: 7\ndata:  c: d\n\rdata: e\r\r"
)
EVENTS = [
    ServerEvent("one", b"a\nb"),
    ServerEvent("", b""),
    ServerEvent("", b" c: d"),
    ServerEvent("", b"e"),
]


@pytest.mark.parametrize("size", range(1, 9))
def test_parser_when_chunks_end_anywhere_then_the_events_are_the_same(size: int) -> None:
    parser = SseParser()
    pieces = [STREAM[start : start + size] for start in range(0, len(STREAM), size)]
    assert [event for piece in pieces for event in parser.feed(piece)] == EVENTS


def test_parser_when_the_stream_ends_within_an_event_then_it_is_none() -> None:
    assert list(SseParser().feed(b"data: a\n")) == []


@pytest.mark.parametrize("chunk", [b"data: " + b"x" * 50, b"data: xxxx\n" * 20])
def test_parser_when_an_event_is_too_long_then_says_so(chunk: bytes) -> None:
    with pytest.raises(EventTooLong):
        list(SseParser(40).feed(chunk))


class Listing:
    """A provider's list, a clock that stands still, and what the list fails with."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls = 0
        self.error: ApplianceError | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.model_list = ModelListCache(self._fetch, lambda: self.now)

    async def _fetch(self) -> Sequence[ListedModel]:
        self.calls += 1
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [ListedModel(f"m{self.calls}")]


async def names(listing: Listing) -> list[str]:
    return [offer.name for offer in await listing.model_list.models()]


async def test_model_list_when_read_concurrently_then_fetched_once() -> None:
    listing = Listing()
    assert await asyncio.gather(*(names(listing) for _ in range(9))) == [["m1"]] * 9
    assert listing.calls == 1


async def test_offers_when_stale_then_the_old_list_serves_while_a_new_one_comes() -> None:
    listing = Listing()
    await names(listing)
    listing.now = 301.0
    listing.gate.clear()
    assert await names(listing) == ["m1"]
    listing.gate.set()
    await listing.model_list.check_reachable()
    assert await names(listing) == ["m2"]


async def test_model_list_when_the_provider_is_down_then_served_for_an_hour() -> None:
    listing = Listing()
    await names(listing)
    listing.error = ProviderFailed("gone")
    listing.now = 3000.0
    assert await names(listing) == ["m1"]
    listing.now = 4000.0
    with pytest.raises(ProviderFailed, match="gone"):
        await names(listing)
    calls = listing.calls
    with pytest.raises(ProviderFailed, match="gone"):
        await listing.model_list.check_reachable()
    assert listing.calls == calls
    assert await listing.model_list.find("m1") is None


async def test_close_when_a_list_is_awaited_then_ends_it() -> None:
    listing = Listing()
    listing.gate.clear()
    waiting = asyncio.ensure_future(names(listing))
    await asyncio.sleep(0)
    await listing.model_list.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    ("configured", "always", "expected"),
    [
        ("", False, "https://own/v1"),
        ("http://x:1", False, "http://x:1/v1"),
        ("http://x:1/", False, "http://x:1/v1"),
        ("http://x/openai/", False, "http://x/openai"),
        ("http://x/api", True, "http://x/api/v1"),
        ("http://x/v1/", True, "http://x/v1"),
    ],
)
def test_base_url_when_configured_then_gets_the_usual_path(
    configured: str, always: bool, expected: str
) -> None:
    assert build_base_url(configured, "https://own", "/v1", always=always) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"null", b"3", b"[]", b'"x"', b'{"error": null}', b'{"error": [1]}',
        b'{"error": {"message": {"a": 1}, "details": {}, "code": [], "param": 3}}',
        b'{"error": {"details": [3, {"retryDelay": 9}, {"retryDelay": "xs"}]}}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_said_when_the_error_is_in_no_known_form_then_nothing_breaks(body: bytes) -> None:
    assert error_body.decode_error_body(body).retry_after is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1_700_000_000, 1_700_000_000.0),
        (1_700_000_000.5, 1_700_000_000.5),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        *((odd, None) for odd in (None, 0, -5, True, 10**30, float("nan"), "soon", "", (1,))),
    ],
)
def test_timestamp_when_in_any_form_then_epoch_seconds_or_none(
    value: object, expected: float | None
) -> None:
    assert parse_timestamp(value) == expected
