"""The errors raised when a provider fails, stalls, breaks off or sends nonsense."""

import asyncio
import ssl
from collections.abc import AsyncGenerator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.messages import TextDelta
from appliance.errors import (
    ApplianceError,
    ConfigError,
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidInput,
    ModelUnavailable,
    PayloadTooLarge,
    ProviderFailed,
    ProviderMisconfigured,
    RateLimited,
    UnknownModel,
)
from appliance.spi.provider import Provider
from plugins._shared.http_provider import client
from plugins.providers.openai import register
from tests.support.fake_upstream import (
    CUT,
    KEY,
    RESET,
    STALL,
    FakeResponse,
    FakeUpstream,
    as_events,
    as_json,
    build_provider,
    close_early,
    collect_events,
    completion_request,
    fake_upstream,
    text_of,
)

CHAT = "/v1/chat/completions"
TEXT: dict[str, Any] = {"choices": [{"delta": {"content": "x"}}]}
LAST: dict[str, Any] = {
    "choices": [{"delta": {}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
STREAM = "text/event-stream"


@pytest.fixture
async def upstream() -> AsyncGenerator[FakeUpstream, None]:
    async with fake_upstream() as fake:
        yield fake


@pytest.fixture
async def openai(upstream: FakeUpstream) -> AsyncGenerator[Provider, None]:
    found = build_provider(register, upstream.url, api_key=KEY)
    yield found
    await found.close()


async def failure(found: Provider) -> ApplianceError:
    with pytest.raises(ApplianceError) as caught:
        await collect_events(found, completion_request())
    assert KEY not in repr(caught.value.args) + repr(caught.value.details)
    return caught.value


def error(message: str, code: str = "", **more: Any) -> dict[str, Any]:
    return {"error": {"message": message, "code": code, **more}}


@pytest.mark.parametrize(
    "case",
    [
        (400, error("bad"), InvalidInput, None),
        (422, {"detail": "bad"}, InvalidInput, None),
        (400, error("too long", "context_length_exceeded"), ContextLengthExceeded, None),
        (400, error("maximum context length is 10"), ContextLengthExceeded, None),
        (401, error(f"Incorrect API key provided: {KEY}"), ProviderMisconfigured, False),
        (403, error("no"), ProviderMisconfigured, False),
        (402, error("pay"), ProviderMisconfigured, False),
        (404, error("The model `m` does not exist", "model_not_found"), UnknownModel, None),
        (404, {"detail": "Not Found"}, ProviderMisconfigured, False),
        (405, {}, ProviderFailed, False),
        (408, {}, ProviderFailed, True),
        (409, {}, ProviderFailed, True),
        (413, error("large"), PayloadTooLarge, None),
        (429, error("slow down"), RateLimited, True),
        (429, error("no money", "insufficient_quota"), ProviderMisconfigured, False),
        (500, error("oops"), ProviderFailed, True),
        (501, {}, ProviderFailed, False),
        (502, [], ProviderFailed, True),
        (503, error("Loading model"), ProviderFailed, True),
        (529, error("busy"), ProviderFailed, True),
    ],
)
async def test_stream_when_the_provider_refuses_then_the_error_says_what_may_follow(
    upstream: FakeUpstream,
    openai: Provider,
    case: tuple[int, Any, type[ApplianceError], bool | None],
) -> None:
    status, body, kind, retryable = case
    upstream.on(CHAT, as_json(body, status))
    found = await failure(openai)
    assert type(found) is kind
    assert found.details.get("retryable") is retryable
    assert "openai" in found.message


async def test_stream_when_the_context_is_too_small_then_the_error_has_the_counts(
    upstream: FakeUpstream, openai: Provider
) -> None:
    body = error(
        "the request exceeds", type="exceed_context_size_error", n_prompt_tokens=12, n_ctx=8
    )
    upstream.on(CHAT, as_json(body, 400))
    assert (await failure(openai)).details == {"prompt_tokens": 12, "context_tokens": 8}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("soon", None),
        ("-3", None),
        ("99999999", 86400.0),
        (formatdate(4102444800, usegmt=True), 86400.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_stream_when_retry_after_is_sent_then_the_error_has_it(
    upstream: FakeUpstream,
    openai: Provider,
    status: int,
    text: str,
    seconds: float | None,
) -> None:
    upstream.on(CHAT, as_json(error("later"), status, Retry_After=text))
    assert (await failure(openai)).retry_after == seconds


async def test_stream_when_an_error_holds_secrets_then_they_are_not_shown(
    upstream: FakeUpstream, openai: Provider
) -> None:
    other = "sk-ant-api03-abcdefgh"
    upstream.on(CHAT, as_json(error(f"{KEY} and {other}\n and Bearer abc " + "x" * 9000), 400))
    found = await failure(openai)
    assert other not in found.message
    assert "abc " not in found.message
    assert "\n" not in found.message
    assert len(found.message) < 400


@pytest.mark.parametrize(
    "answer",
    [
        as_events(TEXT, end=CUT),
        as_events(TEXT, end=RESET),
        as_events(TEXT),
        as_events(TEXT, last=b"data: [DONE]\n\n"),
        FakeResponse(200, [b"data: {"], content_type=STREAM),
        FakeResponse(200, [b"data: {nonsense}\n\n"], content_type=STREAM),
        FakeResponse(200, [b"data: \xff\xfe\n\n"], content_type=STREAM),
        FakeResponse(200, [b'data: {"choices": 3}\n\n'], content_type=STREAM),
        FakeResponse(200, [b"data: " + b"[" * 100_000 + b"\n\n"], content_type=STREAM),
        FakeResponse(200, [], content_type=STREAM),
        as_events(TEXT, error("exploded")),
        as_events({"object": "error", "message": "exploded", "code": 500}),
        as_json(error("exploded")),
    ],
)
async def test_stream_when_the_answer_breaks_off_or_is_nonsense_then_can_be_tried_again(
    upstream: FakeUpstream, openai: Provider, answer: FakeResponse
) -> None:
    upstream.on(CHAT, answer)
    found = await failure(openai)
    assert type(found) is ProviderFailed
    assert found.details["retryable"] is True


@pytest.mark.parametrize(
    "answer",
    [
        FakeResponse(200, [b"{}"], content_type="application/json"),
        FakeResponse(200, [b"<html>"], content_type="text/html"),
        FakeResponse(302, [], {"Location": "http://elsewhere.example/"}),
        FakeResponse(200, [b"data: " + b"x" * 1_000_000] * 9, content_type=STREAM),
    ],
)
async def test_stream_when_it_is_no_stream_that_can_be_read_then_fails_for_good(
    upstream: FakeUpstream, openai: Provider, answer: FakeResponse
) -> None:
    upstream.on(CHAT, answer)
    found = await failure(openai)
    assert isinstance(found, ProviderFailed)
    assert found.details["retryable"] is False


async def test_stream_when_an_answer_never_ends_then_is_cut_at_the_bound(
    upstream: FakeUpstream, openai: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "MAX_RESPONSE_BYTES", 1000)
    upstream.on(CHAT, as_events(*[TEXT] * 100))
    assert "1000 bytes" in (await failure(openai)).message


@pytest.mark.parametrize("size", [1, 2, 7])
async def test_stream_when_chunks_end_anywhere_then_the_text_is_whole(
    upstream: FakeUpstream, openai: Provider, size: int
) -> None:
    whole = b"".join(
        as_events({"choices": [{"delta": {"content": "\u00e4\U0001f600"}}]}, LAST).chunks
    )
    whole = b": hello\r\n\r\n" + whole.replace(b"\n", b"\r\n") + b"data: [DONE]\r\n\r\n"
    pieces = [whole[start : start + size] for start in range(0, len(whole), size)]
    upstream.on(CHAT, FakeResponse(200, pieces, content_type=STREAM))
    assert text_of(await collect_events(openai, completion_request())) == "\u00e4\U0001f600"


async def test_stream_when_the_provider_falls_silent_then_fails_and_can_be_tried_again(
    upstream: FakeUpstream,
) -> None:
    found = build_provider(register, upstream.url, read_timeout_s=0.1)
    for answer in (
        as_events(TEXT, end=STALL),
        FakeResponse(200, [], content_type=STREAM, end=STALL),
    ):
        upstream.on(CHAT, answer)
        error_ = await failure(found)
        assert "no data for 0.1 s" in error_.message
        assert error_.details["retryable"] is True
    await found.close()


async def test_stream_when_the_whole_answer_takes_too_long_then_the_deadline_is_exceeded(
    upstream: FakeUpstream,
) -> None:
    found = build_provider(register, upstream.url, timeout_s=0.1)
    upstream.on(CHAT, as_events(TEXT, end=STALL))
    assert type(await failure(found)) is DeadlineExceeded
    await found.close()


async def test_stream_when_nobody_listens_then_fails_and_can_be_tried_again() -> None:
    found = build_provider(register, "http://127.0.0.1:9")
    error_ = await failure(found)
    assert type(error_) is ProviderFailed
    assert error_.details == {"status": None, "retryable": True}
    with pytest.raises(ModelUnavailable):
        await found.load("m")
    await found.close()


@pytest.mark.parametrize("way", ["close", "cancel"])
async def test_stream_when_given_up_then_the_connection_closes_at_once(
    upstream: FakeUpstream, openai: Provider, way: str
) -> None:
    upstream.on(CHAT, as_events(TEXT, end=STALL))
    events = openai.stream(completion_request())
    assert isinstance(await anext(events), TextDelta)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    if way == "close":
        await close_early(events)
    async with asyncio.timeout(10):
        await upstream.client_closed.wait()


async def test_close_when_a_stream_is_open_then_it_fails_and_nothing_new_begins(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(CHAT, as_events(TEXT, end=STALL))
    events = openai.stream(completion_request())
    await anext(events)
    waiting = asyncio.ensure_future(anext(events))
    await asyncio.sleep(0)
    await openai.close()
    with pytest.raises(ProviderFailed):
        await waiting
    with pytest.raises(ProviderFailed, match="shutting down"):
        await collect_events(openai, completion_request())
    assert not openai.status().available


async def test_models_when_the_list_fails_then_it_is_not_asked_for_again_at_once(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on("/v1/models", as_json(error("down"), 500))
    for _ in range(3):
        with pytest.raises(ProviderFailed):
            await openai.models()
    assert len(upstream.requests) == 1


async def test_provider_when_nothing_is_configured_then_offers_nothing_and_says_what_to_set() -> (
    None
):
    found = build_provider(register, "")
    assert found.status().problem == "no API key: set providers.openai.api_key or OPENAI_API_KEY"
    assert list(await found.models()) == []
    with pytest.raises(ProviderFailed, match="no API key"):
        await collect_events(found, completion_request())
    await found.close()


@pytest.mark.parametrize(
    "settings",
    [
        {"base_url": "ftp://x"},
        {"base_url": "http://"},
        {"base_url": "http://x:port"},
        {"base_url": "http://user:hush@x"},
        {"base_url": "http://x/?key=hush"},
        {"proxy": "socks://x"},
        {"timeout_s": "long"},
    ],
)
def test_provider_when_a_setting_can_not_be_used_then_is_refused_without_its_value(
    settings: dict[str, Any],
) -> None:
    with pytest.raises(ConfigError) as caught:
        build_provider(register, **({"url": ""} | settings))
    assert "hush" not in caught.value.message


async def test_provider_when_the_certificate_is_not_trusted_then_fails_for_good(
    tmp_path: Path,
) -> None:
    del tmp_path
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    found = build_provider(register, f"https://127.0.0.1:{port}")
    assert type(await failure(found)) is ProviderFailed
    await found.close()
    server.close()


async def test_provider_when_the_ca_file_is_missing_then_says_which(tmp_path: Path) -> None:
    found = build_provider(register, "https://127.0.0.1:9", ca_file=str(tmp_path / "none.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem"):
        await collect_events(found, completion_request())
    await found.close()


async def test_provider_when_a_proxy_is_configured_then_goes_through_it(
    upstream: FakeUpstream,
) -> None:
    found = build_provider(register, "http://upstream.invalid", proxy=upstream.url)
    upstream.on("http://upstream.invalid/v1/chat/completions", as_events(TEXT, LAST))
    assert text_of(await collect_events(found, completion_request())) == "x"
    await found.close()


async def test_provider_when_only_the_environment_names_a_proxy_then_goes_directly(
    upstream: FakeUpstream, openai: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    upstream.on(CHAT, as_events(TEXT, LAST))
    assert text_of(await collect_events(openai, completion_request())) == "x"


async def test_streams_when_many_run_at_once_then_each_gets_its_own_answer(
    upstream: FakeUpstream, openai: Provider
) -> None:
    upstream.on(CHAT, as_events(TEXT, LAST))
    answers = await asyncio.gather(
        *(collect_events(openai, completion_request()) for _ in range(50))
    )
    assert {text_of(events) for events in answers} == {"x"}
