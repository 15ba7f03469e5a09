"""One request to a provider and its answer, which is ended in every case."""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from plugins._shared.http_provider import error_body, failures
from plugins._shared.http_provider.sse import ServerEvent, SseParser

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

    from plugins._shared.http_provider.client import Client

OK = 200
MAX_ANSWER_BYTES = 128 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0
_DRAIN_S = 0.05
_STREAM_TYPES = ("text/event-stream", "application/octet-stream", "text/plain", "")


@dataclass(frozen=True)
class Question:
    """What is asked. `path` may be a whole address; `timeout_s` None is the configured one."""

    method: str
    path: str
    body: Any = None
    params: Mapping[str, str] | None = None
    timeout_s: float | None = None

    @property
    def content(self) -> bytes | None:
        return None if self.body is None else msgspec.json.encode(self.body)


class Exchange:
    """`async with` asks and waits until the answer begins, with status 200; leaving ends it.

    Ended before all of it was read, its connection is closed. What fails within, or in the
    answer's reading, is raised by the name that the client has for it.
    """

    def __init__(self, client: "Client", question: Question) -> None:
        self._client = client
        self._question = question
        self._begun: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> Self:
        try:
            self._begun = response = await self._client.ask(self._question)
            await self._accept(response)
        except BaseException as error:
            self._end(error)
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: "TracebackType | None",
    ) -> None:
        self._end(error)

    @property
    def _response(self) -> "aiohttp.ClientResponse":
        if self._begun is None:
            raise RuntimeError("not within `async with`")
        return self._begun

    async def whole(self) -> bytes:
        """All of the answer."""
        return await self._whole(self._response)

    async def _accept(self, response: "aiohttp.ClientResponse") -> None:
        """Raises what an answer with another status says."""
        if response.status == OK:
            return
        body = bytearray()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(body) < _MAX_ERROR_BYTES and (more := await response.content.readany()):
                    body += more
        words = error_body.read(bytes(body), self._client.secrets)
        raise failures.of_status(self._client.name, response.status, response.headers, words)

    async def _whole(self, response: "aiohttp.ClientResponse") -> bytes:
        pieces, size = list[bytes](), 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            self._bound(size)
        return b"".join(pieces)

    def _bound(self, size: int) -> None:
        if size > MAX_ANSWER_BYTES:
            reason = f"an answer of more than {MAX_ANSWER_BYTES} bytes"
            raise failures.failed(self._client.name, reason)

    def _end(self, error: BaseException | None) -> None:
        if self._begun is not None:
            self._client.answered(self._begun)
        if not isinstance(error, Exception):
            return
        named = self._client.failure(error, self._question.timeout_s)
        if named is not None:
            raise named from error


class EventStream(Exchange):
    """An answer that comes as server-sent events."""

    def __init__(self, client: "Client", question: Question) -> None:
        super().__init__(client, question)
        self._parser = SseParser()
        self._size = 0

    async def events(self) -> Iterable[ServerEvent] | None:
        """Those that came with the next piece of the answer, perhaps none; None at its end."""
        chunk = await self._response.content.readany()
        if not chunk:
            return None
        self._size += len(chunk)
        self._bound(self._size)
        return self._parser.feed(chunk)

    async def drain(self) -> None:
        """Take what little may follow the last event, so that the connection can be reused."""
        content = self._response.content
        if content.at_eof():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not content.at_eof() and await content.readany():
                    pass

    async def _accept(self, response: "aiohttp.ClientResponse") -> None:
        await super()._accept(response)
        if response.content_type in _STREAM_TYPES:
            return
        words = error_body.read(await self._whole(response), self._client.secrets)
        if words.message:
            raise failures.in_stream(self._client.name, words)
        raise failures.failed(self._client.name, "it does not stream its answer")
