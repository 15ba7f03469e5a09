"""The end of a request's body, and draining the rest of it."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any, cast

import pytest

from appliance.api.http.body_deadline import BodyDeadlines
from appliance.api.http.body_drain import DrainableBody
from appliance.api.http.pacer import Pacer
from appliance.config.settings import ServerSettings
from appliance.errors import BodyTimeout

Headers = Sequence[tuple[bytes, bytes]]


class Sent:
    """Messages of a request; `asked` counts the calls of `receive`."""

    def __init__(self, *pieces: bytes, last: bool) -> None:
        self.asked = 0
        self._messages = self._told(pieces, last)

    async def receive(self) -> Any:
        self.asked += 1
        return next(self._messages)

    def _told(self, pieces: Sequence[bytes], last: bool) -> Iterator[dict[str, Any]]:
        for piece in pieces:
            yield {"type": "http.request", "body": piece, "more_body": True}
        if last:
            yield {"type": "http.request", "body": b"", "more_body": False}
        yield {"type": "http.disconnect"}


def body_of(sent: Sent, *headers: tuple[bytes, bytes]) -> DrainableBody:
    scope = cast("Any", {"headers": headers, "client": None})
    return DrainableBody(scope, sent.receive, BodyDeadlines(ServerSettings()))


async def read(body: DrainableBody) -> bytes:
    whole, more = b"", True
    while more:
        message = await body.receive()
        whole += message.get("body", b"")
        more = message.get("more_body", False)
    return whole


@pytest.mark.parametrize("pieces", [(b"hello",), (b"he", b"llo")])
async def test_body_when_its_announced_length_has_come_then_nobody_is_asked_for_more(
    pieces: Sequence[bytes],
) -> None:
    sent = Sent(*pieces, last=True)
    body = body_of(sent, (b"content-length", b"5"))
    assert await read(body) == b"hello"
    await body.drain()
    assert sent.asked == len(pieces)


@pytest.mark.parametrize("headers", [((b"transfer-encoding", b"chunked"),), ()])
async def test_body_when_its_length_is_unknown_then_the_server_reports_its_end(
    headers: Headers,
) -> None:
    sent = Sent(b"he", b"llo", last=True)
    body = body_of(sent, *headers)
    assert await read(body) == b"hello"
    assert sent.asked == 3


async def test_body_when_the_client_disconnects_then_it_ends_there() -> None:
    sent = Sent(b"he", last=False)
    body = body_of(sent, (b"content-length", b"5"))
    assert await read(body) == b"he"
    await body.drain()
    assert sent.asked == 2


async def test_discard_when_part_was_read_then_the_rest_is_taken() -> None:
    sent = Sent(b"he", b"llo", last=True)
    body = body_of(sent, (b"content-length", b"5"))
    assert (await body.receive())["more_body"]
    await body.drain()
    assert sent.asked == 2


@pytest.mark.parametrize(
    "headers", [(), ((b"content-length", b"0"),), ((b"content-length", b"5"), (b"expect", b"x"))]
)
async def test_discard_when_nothing_is_sent_then_nobody_is_asked(headers: Headers) -> None:
    sent = Sent(last=True)
    await body_of(sent, *headers).drain()
    assert sent.asked == 0


async def test_discard_when_many_are_read_then_no_other_one_is() -> None:
    """F64"""
    deadlines = BodyDeadlines(ServerSettings())
    scope = cast("Any", {"headers": [(b"content-length", b"5")], "client": None})
    slow = [DrainableBody(scope, SlowBody().receive, deadlines) for _ in range(32)]
    reading = [asyncio.create_task(body.drain()) for body in slow]
    await asyncio.sleep(0)
    refused, later = Sent(b"hello", last=True), Sent(b"hello", last=True)
    await DrainableBody(scope, refused.receive, deadlines).drain()
    assert refused.asked == 0
    reading[0].cancel()
    await asyncio.wait(reading[:1])
    await DrainableBody(scope, later.receive, deadlines).drain()
    assert later.asked == 1
    for each in reading:
        each.cancel()


async def test_body_when_it_was_to_be_asked_for_then_all_of_it_can_be_read() -> None:
    sent = Sent(b"he", b"llo", last=True)
    body = body_of(sent, (b"content-length", b"5"), (b"expect", b"100-continue"))
    assert await read(body) == b"hello"


class SlowBody:
    """A body whose last piece never comes."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    async def receive(self) -> Any:
        for piece in self._pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        return await asyncio.get_running_loop().create_future()


def slow_body(*pieces: bytes, **settings: Any) -> DrainableBody:
    headers = [(b"content-length", b"100000")]
    deadlines = BodyDeadlines(ServerSettings(**settings))
    return DrainableBody(
        cast("Any", {"headers": headers, "client": None}), SlowBody(*pieces).receive, deadlines
    )


async def test_body_when_it_comes_too_slowly_then_the_wait_ends_and_nothing_is_drained() -> None:
    """F64"""
    body = slow_body(b"x", body_timeout_s=0.1)
    with pytest.raises(BodyTimeout):
        await read(body)
    await body.drain()  # would wait for the rest otherwise


async def test_body_when_much_of_it_came_then_it_may_take_longer() -> None:
    body = slow_body(b"x" * 90_000, body_timeout_s=0.1, body_bytes_per_s=1000)
    reading = asyncio.create_task(read(body))
    with pytest.raises(BodyTimeout):
        await read(slow_body(b"x" * 100, body_timeout_s=0.1, body_bytes_per_s=1000))
    assert not reading.done()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_body_when_the_request_is_cancelled_then_that_is_no_timeout() -> None:
    reading = asyncio.create_task(read(slow_body(body_timeout_s=60.0)))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize(("size", "asked"), [(1, 2), (4096, 10)])
async def test_body_when_its_pieces_are_small_then_they_are_received_at_a_limited_rate(
    size: int, asked: int
) -> None:
    sent = Sent(*[b"x" * size] * 9, last=True)
    deadlines = BodyDeadlines(ServerSettings())
    deadlines.small_pieces = Pacer(1e-6, burst=1)
    scope = cast("Any", {"headers": [(b"transfer-encoding", b"chunked")], "client": None})
    body = DrainableBody(scope, sent.receive, deadlines)
    reading = asyncio.create_task(read_all(body))
    await asyncio.sleep(0)
    assert sent.asked == asked
    reading.cancel()


async def read_all(body: DrainableBody) -> None:
    while (await body.receive()).get("more_body"):
        pass
