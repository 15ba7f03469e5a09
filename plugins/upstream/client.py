"""HTTP with one provider: every answer is bounded, every wait has its end, every failure a name."""

import asyncio
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from appliance.errors import ApplianceError, DeadlineExceeded
from plugins.upstream import failures, said
from plugins.upstream.options import Options
from plugins.upstream.session import open_session
from plugins.upstream.sse import EventTooLong, ServerEvent, SseParser

if TYPE_CHECKING:
    import aiohttp

OK = 200
MAX_ANSWER_BYTES = 128 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_S = 10.0
_DRAIN_S = 0.05
_STREAM_TYPES = ("text/event-stream", "application/octet-stream", "text/plain", "")
T = TypeVar("T")


class Client:
    """Speaks with one address. `headers` carry the key; nothing of them is ever shown."""

    def __init__(
        self, name: str, base_url: str, options: Options, headers: Mapping[str, str]
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.server = ""  # what the last answer's header called itself
        self._options = options
        self._headers = dict(headers)
        self._opening = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._open: set[aiohttp.ClientResponse] = set()
        self._closed = False

    async def get(
        self,
        path: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """The JSON answer of a GET. Raises what `failures` makes of what went wrong."""
        async with self._answer("GET", path, params=params, timeout_s=timeout_s) as response:
            return self.decoded(await self._whole(response), kind)

    async def post(self, path: str, body: Any, kind: type[T], timeout_s: float | None = None) -> T:
        """The JSON answer of a POST. `path` may be a whole address of the same server."""
        async with self._answer("POST", path, body, timeout_s=timeout_s) as response:
            return self.decoded(await self._whole(response), kind)

    @asynccontextmanager
    async def stream(self, path: str, body: Any) -> AsyncGenerator["EventStream", None]:
        """POST for an event stream. Leaving it early closes the connection at once."""
        async with self._answer("POST", path, body) as response:
            if response.content_type not in _STREAM_TYPES:
                raise self._no_stream(await self._whole(response))
            yield EventStream(self.name, response)

    def decoded(self, body: bytes, kind: type[T]) -> T:
        """Raises ProviderFailed for what is not of that form."""
        return decoded(self.name, body, kind)

    def said(self, found: Any) -> said.Said:
        """What a decoded error says, without this provider's secrets."""
        return said.of(found, self._secrets())

    async def close(self) -> None:
        """Close every connection; answers still open fail with ProviderFailed."""
        self._closed = True
        async with self._opening:
            if self._session is None:
                return
            for response in tuple(self._open):
                # Closing the session would leave their readers waiting.
                response.content.set_exception(ConnectionAbortedError("closed"))
            await self._session.close()

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator["aiohttp.ClientResponse", None]:
        session = await self._opened()
        import aiohttp

        url = path if path.startswith("http") else self.base_url + path
        headers = self._headers
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
        try:
            request = partial(
                session.request,
                method,
                url,
                params=params,
                data=None if body is None else msgspec.json.encode(body),
                headers=headers,
                allow_redirects=False,
                timeout=self._timeout(timeout_s),
            )
            try:
                response = await request()
            except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
                if isinstance(error, aiohttp.ClientConnectorError):
                    raise
                # A connection of the pool that the other side was just closing.
                response = await request()
            self._open.add(response)
            self.server = response.headers.get("Server", "")
            try:
                await self._check(response)
                yield response
            finally:
                self._open.discard(response)
                response.close()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self._failure(error, timeout_s) from error

    async def _opened(self) -> "aiohttp.ClientSession":
        if self._session is None or self._closed:
            async with self._opening:
                if self._closed:
                    raise failures.failed(self.name, "the server is shutting down")
                if self._session is None:
                    self._session = await open_session(self._options, self.base_url)
        return self._session

    def _timeout(self, timeout_s: float | None) -> "aiohttp.ClientTimeout":
        import aiohttp

        options = self._options
        return aiohttp.ClientTimeout(
            total=timeout_s or options.timeout_s,
            connect=options.connect_timeout_s,
            sock_read=options.read_timeout_s,
        )

    async def _check(self, response: "aiohttp.ClientResponse") -> None:
        if response.status == OK:
            return
        body = bytearray()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ERROR_BODY_S):
                while len(body) < _MAX_ERROR_BYTES and (more := await response.content.readany()):
                    body += more
        words = said.read(bytes(body), self._secrets())
        raise failures.of_status(self.name, response.status, response.headers, words)

    async def _whole(self, response: "aiohttp.ClientResponse") -> bytes:
        pieces, size = list[bytes](), 0
        async for piece in response.content.iter_any():
            pieces.append(piece)
            size += len(piece)
            if size > MAX_ANSWER_BYTES:
                raise failures.failed(self.name, f"an answer of more than {MAX_ANSWER_BYTES} bytes")
        return b"".join(pieces)

    def _no_stream(self, body: bytes) -> ApplianceError:
        words = said.read(body, self._secrets())
        if words.message:
            return failures.in_stream(self.name, words)
        return failures.failed(self.name, "it does not stream its answer")

    def _failure(self, error: Exception, timeout_s: float | None) -> ApplianceError:
        import aiohttp

        options = self._options
        match error:
            case aiohttp.ConnectionTimeoutError():
                reason = f"no connection within {options.connect_timeout_s:g} s"
            case aiohttp.SocketTimeoutError():
                reason = f"silent for {options.read_timeout_s:g} s"
            case TimeoutError():
                return DeadlineExceeded(
                    f"provider {self.name}: no whole answer within "
                    f"{timeout_s or options.timeout_s:g} s",
                    details={"status": None, "retryable": False},
                )
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return failures.failed(
                    self.name, "its certificate is not trusted; see ca_file in the configuration"
                )
            case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
                reason = f"no connection: {error.strerror or 'refused'}"
            case ValueError():
                return failures.failed(self.name, "its address can't be used; see base_url")
            case _:
                reason = "the connection broke before the answer was complete"
        return failures.broken(self.name, reason)

    def _secrets(self) -> tuple[str, ...]:
        return (self._options.api_key, self._options.proxy)


class EventStream:
    """The events of one answer, while it is open."""

    def __init__(self, name: str, response: "aiohttp.ClientResponse") -> None:
        self._name = name
        self._content = response.content

    async def __aiter__(self) -> AsyncGenerator[ServerEvent, None]:
        parser, size = SseParser(), 0
        async for chunk in self._content.iter_any():
            size += len(chunk)
            if size > MAX_ANSWER_BYTES:
                raise failures.failed(self._name, f"more than {MAX_ANSWER_BYTES} bytes")
            for event in self._events(parser, chunk):
                yield event

    async def drain(self) -> None:
        """Take what little may follow the last event, so that the connection can be reused."""
        if self._content.at_eof():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_S):
                while not self._content.at_eof() and await self._content.readany():
                    pass

    def _events(self, parser: SseParser, chunk: bytes) -> Iterable[ServerEvent]:
        try:
            yield from parser.feed(chunk)
        except EventTooLong as error:
            raise failures.failed(self._name, str(error)) from None


def decoded(name: str, body: bytes, kind: type[T]) -> T:
    """Raises ProviderFailed for what is not of that form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"its answer is not of its API: {error}"
        raise failures.failed(name, reason, OK, retryable=True) from None
