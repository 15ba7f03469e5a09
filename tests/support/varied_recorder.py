"""A recorder of the answers to varied requests, the server they go to, and scripted answers."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.support.fake_upstream import CUT, FakeResponse, FakeUpstream, as_events, as_json
from tests.support.field_values import FieldValues
from tests.support.polling import until
from tests.support.server_process import ServerProcess, command, running_server
from tests.support.tiny_embedder import write_tiny_embedder
from tests.support.tiny_gguf import write_tiny_gguf

CHAT = "/v1/chat/completions"
PASSWORD = "correct horse battery"
HI: list[Any] = [{"role": "user", "content": "hi"}]
PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
FUNCTION = {"name": "f", "parameters": PARAMETERS}
OTHER = {"type": "function", "function": FUNCTION | {"name": "g"}}
TOOL = {"type": "function", "function": FUNCTION}
CODE = "```python\ndef add(a, b):\n    return a + b\n```\nIt adds."
LONG_CODE = "```python\ndef add(a, b):\n    total = a + b\n    return total\n```"
ADD = "Write a Python function add such that add(1, 2) == 3 and add(0, 0) == 0"


@dataclass
class Recorder:
    """Sends requests to a server and records the answers in `fields`."""

    fields: FieldValues
    http: httpx.AsyncClient
    upstream: FakeUpstream = field(default_factory=FakeUpstream)
    keys: dict[str, str] = field(default_factory=dict[str, str])

    async def call(
        self, route: str, body: Any = None, *, key: str | None = "alice", **options: Any
    ) -> Any:
        """A call of a route ("POST /v1/models/{model}", with `model=`); returns the answer."""
        method, template = route.split(" ")
        headers: dict[str, str] = options.pop("headers", {})
        if key is not None:
            headers = {"Authorization": f"Bearer {self.keys.get(key, key)}"} | headers
        names = [name for name in options if f"{{{name}}}" in template]
        path = template.format(**{name: options.pop(name) for name in names})
        sent: dict[str, Any] = {} if body is None else {"json": body}
        response = await self.http.request(method, path, headers=headers, **sent, **options)
        self.fields.add_response(route.partition("?")[0], response)
        return response.json() if "json" in response.headers.get("content-type", "") else None


def answer(
    text: str = "", reason: str = "stop", usage: Mapping[str, Any] | None = None, **delta: Any
) -> FakeResponse:
    """A streamed answer of an upstream; `delta`: further fields of the message."""
    more = delta.pop("choice", {})
    choice = {"index": 0, "delta": {"content": text} | delta, "finish_reason": reason} | more
    used: Any = {"choices": [], "usage": usage or {"prompt_tokens": 3, "completion_tokens": 1}}
    return as_events({"choices": [choice]}, used, last=b"data: [DONE]\n\n")


OVERFLOW = {
    "message": "This model's maximum context length is 10 tokens",
    "type": "invalid_request_error",
    "code": "context_length_exceeded",
}
USED: dict[str, Any] = {
    "prompt_tokens": 9,
    "completion_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def varied_answers() -> list[FakeResponse]:
    """Answers of every kind; each is given twice, for a request and its stream."""
    token = {"token": "a", "logprob": -0.5, "bytes": [97]}
    ranked = token | {"top_logprobs": [token, {"token": "b", "logprob": -1.5, "bytes": [98]}]}
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}
    other = {"index": 1, "id": "c2", "function": {"name": "g", "arguments": '{"b": [2]}'}}
    cut = {"choices": [{"index": 0, "delta": {"content": "z"}}]}
    answers = [
        answer("a", choice={"logprobs": {"content": [ranked]}}),
        answer("b", "length", USED),
        answer("", "tool_calls", tool_calls=[call]),
        answer("", "tool_calls", USED, tool_calls=[other | {"index": 0}]),
        answer("c", "tool_calls", USED, tool_calls=[call, other]),
        answer("", "content_filter", refusal="no"),
        answer("d", choice={"stop_reason": "END"}),
        as_events(cut, end=CUT),
        as_events(cut, {"error": OVERFLOW}),
        as_json({"error": {"message": "no such key"}}, 401),
        answer("e"),
    ]
    return [each for each in answers for _ in range(2)]


@asynccontextmanager
async def served(
    folder: Path, config: str = "", env: Mapping[str, str] | None = None, *, models: bool = True
) -> AsyncGenerator[tuple[ServerProcess, httpx.AsyncClient], None]:
    """A real server with a tiny text model and an embedding model, as `config` says."""
    data = folder / "data"
    data.mkdir(mode=0o700, parents=True)
    (data / "config.toml").write_text(config)
    (data / "config.toml").chmod(0o600)
    if models:
        tiny = write_tiny_gguf(folder / "tiny.gguf", fill_in=True)
        vectors = write_tiny_embedder(folder / "vectors.gguf", context_tokens=64)
        for alias, path in (("tiny", tiny), ("vectors", vectors), ("others", vectors)):
            await asyncio.to_thread(
                command, "model", "add", path, "--in-place", "--alias", alias, "--data-dir", data
            )
    stack = running_server(data, None, **(env or {}))
    server = await asyncio.to_thread(stack.__enter__)
    try:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as http:
            yield server, http
    finally:
        await asyncio.to_thread(stack.__exit__, None, None, None)


async def add_users(server: ServerProcess, users: Mapping[str, tuple[str, str]]) -> None:
    """Users by name, with role and plan, who log in with PASSWORD."""
    for name, (role, plan) in users.items():
        words = ["user", "add", name, "--role", role, "--plan", plan, "--name", name.title()]
        words += ["--password-stdin", "--data-dir", str(server.data_dir)]
        await asyncio.to_thread(command, *words, input=PASSWORD + "\n")


async def next_second() -> None:
    """Until times in whole seconds, such as `created`, are other ones."""
    second = int(time.time())
    await until(lambda: int(time.time()) != second)


async def wait_for_bodies(upstream: FakeUpstream, count: int) -> None:
    """Until the upstream has been asked for `count` chats."""
    await until(lambda: len(upstream.bodies(CHAT)) >= count)
