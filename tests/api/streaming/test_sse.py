"""Server-sent events: both paths, the frames, and resuming."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from appliance.api.streaming.sse import Frame, encode_stream
from appliance.errors import ContextLengthExceeded
from tests.api.application import Api
from tests.support.polling import until

TASK = {"prompt": "Write add(a, b)"}


def parsed(text: str) -> list[tuple[int, dict[str, Any]]]:
    """(id, data) of each frame; every frame must have both, and nothing else."""
    found: list[tuple[int, dict[str, Any]]] = []
    for block in text.strip().split("\n\n"):
        first, second = block.split("\n")
        assert first.startswith("id: ")
        assert second.startswith("data: ")
        found.append((int(first[4:]), json.loads(second[6:])))
    return found


@pytest.mark.parametrize(
    ("path", "extra"),
    [
        ("/api/v1/execute/stream", {}),
        ("/api/v1/stream/execute", {"stream": True}),
        ("/api/v1/execute", {"stream": True}),
    ],
)
async def test_stream_when_a_task_is_sent_then_its_steps_and_the_answer(
    path: str, extra: dict[str, Any], client: httpx.AsyncClient
) -> None:
    answer = await client.post(path, json=TASK | extra)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    frames = parsed(answer.text)
    assert [number for number, _ in frames] == list(range(1, len(frames) + 1))
    kinds = [frame["type"] for _, frame in frames]
    assert kinds == ["start", *["progress"] * 5, "code", "complete"]
    start, end = frames[0][1], frames[-1][1]
    assert end["data"]["task_id"] == start["task_id"]
    assert end["result"] == end["data"]["result"]
    assert end["result"]["code"] == frames[-2][1]["content"]


async def test_stream_when_candidates_are_verified_then_progress_shows_them(
    client: httpx.AsyncClient,
) -> None:
    frames = [
        frame for _, frame in parsed((await client.post("/api/v1/execute/stream", json=TASK)).text)
    ]
    _, started, planned, progress, candidate, verdict, *_ = frames
    assert started["message"] == "Started"
    assert planned["plan"] == {"persona": "developer", "branches": 3}
    assert progress["progress"] == {"step": "generate", "percentage": 10}
    assert candidate["branch"] == {"index": 1, "seed": 12, "tokens": 30}
    assert verdict["branch"] == {"index": 1, "passed": 3, "failed": 0, "score": 1.0}
    assert verdict["progress"] == {"step": "verdict", "percentage": None}


async def test_stream_when_the_task_fails_then_an_error_frame_ends_it(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.outcome = ContextLengthExceeded("9 tokens do not fit")
    answer = await client.post("/api/v1/execute/stream", json=TASK)
    assert answer.status_code == 200
    assert parsed(answer.text)[-1][1] == {
        "type": "error",
        "error": {"code": "CONTEXT_LENGTH_EXCEEDED", "message": "9 tokens do not fit"},
    }


async def test_stream_when_the_task_is_cancelled_then_an_error_frame_ends_it(
    api: Api, client: httpx.AsyncClient
) -> None:
    api.script.hold()
    reading = asyncio.create_task(
        client.post("/api/v1/execute/stream", json=TASK | {"task_id": "mine"})
    )
    await until(lambda: bool(api.script.seen))
    cancelled = await client.post("/api/v1/tasks/mine/cancel")
    assert cancelled.json()["status"] == "cancelled"
    last = parsed((await reading).text)[-1][1]
    assert (last["type"], last["error"]["code"]) == ("error", "TASK_CANCELLED")


@pytest.mark.parametrize("seen", [0, 1, 4, 7])
async def test_events_when_resumed_then_each_event_once(
    seen: int, client: httpx.AsyncClient
) -> None:
    whole = (await client.post("/api/v1/execute/stream", json=TASK | {"task_id": "mine"})).text
    rest = parsed(whole)[seen:]
    path = "/api/v1/tasks/mine/events"
    by_header = await client.get(path, headers={"Last-Event-ID": str(seen)})
    by_query = await client.get(path, params={"after": seen})
    assert parsed(by_header.text) == parsed(by_query.text) == rest


async def test_events_when_nothing_is_left_then_204(client: httpx.AsyncClient) -> None:
    whole = (await client.post("/api/v1/execute/stream", json=TASK | {"task_id": "mine"})).text
    last = parsed(whole)[-1][0]
    answer = await client.get(f"/api/v1/tasks/mine/events?after={last}")
    assert (answer.status_code, answer.content) == (204, b"")


async def test_stream_when_sent_again_with_the_last_id_then_the_same_task_goes_on(
    api: Api, client: httpx.AsyncClient
) -> None:
    body = TASK | {"task_id": "mine"}
    whole = parsed((await client.post("/api/v1/execute/stream", json=body)).text)
    headers = {"Last-Event-ID": "3"}
    again = await client.post("/api/v1/execute/stream", json=body, headers=headers)
    assert parsed(again.text) == whole[3:]
    assert len(api.script.seen) == 1


async def test_stream_when_a_new_task_brings_an_old_id_then_it_is_ignored(
    client: httpx.AsyncClient,
) -> None:
    headers = {"Last-Event-ID": "3"}
    answer = await client.post("/api/v1/execute/stream", json=TASK, headers=headers)
    assert parsed(answer.text)[0][1]["type"] == "start"


@pytest.mark.parametrize("wrong", ["x", "-1", "1.5", "٣", "9" * 40])
async def test_events_when_the_last_id_is_none_then_400(
    wrong: str, client: httpx.AsyncClient
) -> None:
    await client.post("/api/v1/execute", json=TASK | {"task_id": "mine"})
    headers = [(b"Last-Event-ID", wrong.encode())]
    answer = await client.get("/api/v1/tasks/mine/events", headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == "Last-Event-ID"


@pytest.mark.parametrize("after", [2**62, 2**63 - 1])
async def test_events_when_after_what_never_was_then_all_is_sent(
    after: int, client: httpx.AsyncClient
) -> None:
    whole = (await client.post("/api/v1/execute/stream", json=TASK | {"task_id": "mine"})).text
    answer = await client.get(f"/api/v1/tasks/mine/events?after={after}")
    assert answer.text == whole


@pytest.mark.parametrize("after", ["-1", str(2**63), "x", "1.5"])
async def test_events_when_after_is_invalid_then_400(after: str, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/execute", json=TASK | {"task_id": "mine"})
    answer = await client.get(f"/api/v1/tasks/mine/events?after={after}")
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == "after"


async def test_events_when_another_users_task_then_404(api: Api, client: httpx.AsyncClient) -> None:
    await client.post("/api/v1/execute", json=TASK | {"task_id": "mine"})
    async with api.client("bob") as bob:
        answer = await bob.get("/api/v1/tasks/mine/events")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "RESOURCE_NOT_FOUND"


class Source:
    """A source of frames that the test controls."""

    def __init__(self) -> None:
        self.frames: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
        self.closed = asyncio.Event()

    async def __call__(self) -> AsyncGenerator[Frame, None]:
        try:
            while (frame := await self.frames.get()) is not None:
                if isinstance(frame, Exception):
                    raise frame
                yield frame
        finally:
            self.closed.set()


async def test_stream_when_nothing_happens_then_heartbeats_and_no_frame_is_lost() -> None:
    source = Source()
    stream = encode_stream(source(), heartbeat_s=0.01)
    assert await anext(stream) == b": heartbeat\n\n"
    assert await anext(stream) == b": heartbeat\n\n"
    for number in (1, 2):
        source.frames.put_nowait(Frame(number, {"type": "progress", "message": "a\nb"}))
    source.frames.put_nowait(None)
    rest = [chunk async for chunk in stream if not chunk.startswith(b":")]
    assert rest == [
        b'id: %d\ndata: {"type":"progress","message":"a\\nb"}\n\n' % number for number in (1, 2)
    ]
    assert source.closed.is_set()


async def test_stream_when_the_client_goes_away_then_the_journal_is_let_go() -> None:
    source = Source()
    stream = encode_stream(source(), heartbeat_s=60)
    source.frames.put_nowait(Frame(1, {}))
    await anext(stream)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(10):
        await source.closed.wait()


async def test_stream_when_closed_between_frames_then_the_journal_is_let_go() -> None:
    source = Source()
    stream = encode_stream(source(), heartbeat_s=60)
    for number in range(3):
        source.frames.put_nowait(Frame(number, {}))
    await anext(stream)
    await stream.aclose()
    async with asyncio.timeout(10):
        await source.closed.wait()


async def test_stream_when_the_journal_breaks_then_the_error_is_raised() -> None:
    source = Source()
    source.frames.put_nowait(RuntimeError("disk"))
    with pytest.raises(RuntimeError, match="disk"):
        await anext(encode_stream(source(), heartbeat_s=60))
