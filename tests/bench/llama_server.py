"""Both sides of the engine's benchmarks: llama.cpp's own server over HTTP, and our provider.

The peer is the package `xllamacpp`, in an environment of its own under the user's cache
folder. Both sides get the same file, threads, context and sampling, and the peer shares
its memory between its clients as ours does.
"""

import asyncio
import contextlib
import json
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx

from appliance.domain.messages import (
    CompletionRequest,
    Finished,
    Message,
    MessageRole,
    Sampling,
)
from plugins.providers.llama_cpp.provider import LlamaCppProvider
from plugins.providers.llama_cpp.sampling.chain import fill_in_defaults
from tests.bench.peers import peer_python
from tests.support.llama_provider import provider_for

CONTEXT = 8192
MODEL = "bench"
MOST_CLIENTS = 8
# llama.cpp's own threads go on polling for some tenths of a second after their last step:
# whoever is timed next would have to share the processor with them.
SETTLE_S = 1.0
_START_S = 120
_LIBRARY_NEEDS = (
    "uvicorn", "fastapi", "pydantic-settings", "sse-starlette", "starlette-context",
    "numpy", "diskcache", "jinja2", "typing-extensions", "pyyaml",
)  # fmt: skip

_PEER = """
import json, sys, xllamacpp
params = xllamacpp.CommonParams()
for name, value in json.loads(sys.argv[1]).items():
    setattr(params, name, value)
params.model.path = sys.argv[2]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[3])
server = xllamacpp.Server(params)
print(json.dumps([server.listening_address, xllamacpp.__version__]), flush=True)
sys.stdin.read()
"""


class Ours:
    """The provider with the model loaded."""

    def __init__(self, provider: LlamaCppProvider) -> None:
        self._provider = provider

    async def ask(self, text: str, client: int, tokens: int, *, system: str = "") -> int:
        """Tokens written; the client's number is its seed, and a user of its own."""
        request = CompletionRequest(
            MODEL, _messages(text, system), Sampling(seed=client), tokens, owner=f"user:{client}"
        )
        return await self.finish(request)

    async def finish(self, request: CompletionRequest) -> int:
        """Read the whole answer; the tokens written."""
        async with aclosing(self._provider.stream(request)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.usage.completion_tokens
        raise RuntimeError("the answer has no end")


class Peer:
    """A running server; `version` is the package's.

    `streams` is False if its streams omit the usage; it is then asked for whole answers.
    """

    def __init__(self, client: httpx.AsyncClient, version: str, *, streams: bool = True) -> None:
        self._client, self.version = client, version
        self._streams = streams

    async def ask(self, text: str, client: int, tokens: int, *, system: str = "") -> int:
        """Tokens written, as the server counts them."""
        messages = [
            {"role": each.role.value, "content": each.content} for each in _messages(text, system)
        ]
        body = _usual() | {"messages": messages, "max_tokens": tokens, "seed": client}
        if not self._streams:
            return await self._whole(body)
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            lines = [line async for line in answer.aiter_lines() if line.startswith("data: {")]
        return int(json.loads(lines[-1].removeprefix("data: "))["usage"]["completion_tokens"])

    async def _whole(self, body: dict[str, Any]) -> int:
        plain = {key: value for key, value in body.items() if not key.startswith("stream")}
        answer = await self._client.post("/v1/chat/completions", json=plain)
        answer.raise_for_status()
        return int(answer.json()["usage"]["completion_tokens"])


@asynccontextmanager
async def running_ours(model: Path, threads: int) -> AsyncGenerator[Ours, None]:
    """Our engine with this model."""
    with tempfile.TemporaryDirectory() as folder:
        files = {MODEL: model}
        provider, _ = provider_for(Path(folder), files, threads=threads, context_tokens=CONTEXT)
        try:
            await provider.load(MODEL)
            yield Ours(provider)
        finally:
            await provider.close()


@asynccontextmanager
async def running_peer(model: Path, threads: int) -> AsyncGenerator[Peer, None]:
    """llama.cpp's server with this model."""
    params = {"n_parallel": MOST_CLIENTS, "n_ctx": CONTEXT, "port": 0, "kv_unified": True}
    python = await asyncio.to_thread(peer_python, "xllamacpp", "xllamacpp")
    server = await asyncio.create_subprocess_exec(
        *(str(python), "-c", _PEER, json.dumps(params), str(model), str(threads)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert server.stdout is not None
    try:
        line = await asyncio.wait_for(server.stdout.readline(), _START_S)
        address, version = json.loads(line)
        # The server closes idle connections after seconds; a new one costs a fraction of a ms.
        fresh = httpx.Limits(max_keepalive_connections=0)
        async with httpx.AsyncClient(base_url=address, timeout=600, limits=fresh) as client:
            yield Peer(client, f"xllamacpp {version}")
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def running_library(model: Path, threads: int) -> AsyncGenerator[Peer, None]:
    """llama-cpp-python's server with this model, over the very library that ours uses."""
    python = await asyncio.to_thread(peer_python, "llama_cpp_server", *_LIBRARY_NEEDS)
    await asyncio.to_thread(_lend_library, python)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    words = {
        "model": str(model),
        "n_ctx": CONTEXT,
        "n_threads": threads,
        "n_threads_batch": threads,
        "port": port,
        # Or a second request would end the first.
        "interrupt_requests": "false",
    }
    options = [word for name, value in words.items() for word in (f"--{name}", str(value))]
    server = await asyncio.create_subprocess_exec(
        *(str(python), "-m", "llama_cpp.server", *options),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        fresh = httpx.Limits(max_keepalive_connections=0)
        address = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=address, timeout=600, limits=fresh) as client:
            await _until_alive(client)
            usage = f"llama_cpp.server {version('llama-cpp-python')}"
            yield Peer(client, usage, streams=False)
    finally:
        server.kill()
        await server.wait()


def _lend_library(python: Path) -> None:
    """Our own build of the package, where the peer's interpreter finds it."""
    place = f"python{sys.version_info.major}.{sys.version_info.minor}"
    link = python.parent.parent / "lib" / place / "site-packages" / "llama_cpp"
    spec = find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    link.unlink(missing_ok=True)
    link.symlink_to(Path(spec.origin).parent)


async def _until_alive(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(_START_S):
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/v1/models")).is_success:
                    return
            await asyncio.sleep(0.2)


def _messages(text: str, system: str) -> tuple[Message, ...]:
    user = Message(MessageRole.USER, text)
    return (Message(MessageRole.SYSTEM, system), user) if system else (user,)


def _usual() -> dict[str, Any]:
    usual = fill_in_defaults(Sampling())
    return {
        "temperature": usual.temperature,
        "top_k": usual.top_k,
        "top_p": usual.top_p,
        "min_p": usual.min_p,
        "repeat_penalty": usual.repeat_penalty,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
