"""HTTP client of one provider: bounded responses, timeouts, errors in the appliance's terms.

`HttpClient` owns the connection pool. Each request is one `HttpExchange`, which always
releases its connection, or an `EventStream`, an exchange whose response is server-sent
events.
"""

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from appliance.errors import ApplianceError
from plugins._shared.http_provider import error_body, failures
from plugins._shared.http_provider.options import HttpProviderOptions
from plugins._shared.http_provider.session import open_session
from plugins._shared.http_provider.sse import ServerEvent, SseParser

if TYPE_CHECKING:
    from types import TracebackType

    import aiohttp

HTTP_OK = 200
MAX_RESPONSE_BYTES = 128 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
_ERROR_BODY_TIMEOUT_S = 10.0
_DRAIN_TIMEOUT_S = 0.05
_JSON_HEADERS = {"Content-Type": "application/json"}
_STREAM_TYPES = ("text/event-stream", "application/octet-stream", "text/plain", "")

T = TypeVar("T")


@dataclass(frozen=True)
class HttpRequest:
    """`path` is relative to the base URL, or an absolute URL of the same server.

    `timeout_s` None: the configured timeout.
    """

    method: str
    path: str
    body: Any = None
    params: Mapping[str, str] | None = None
    timeout_s: float | None = None

    @property
    def content(self) -> bytes | None:
        return None if self.body is None else msgspec.json.encode(self.body)


class HttpClient:
    """Requests to one base URL. `headers` hold the API key and are never logged or shown."""

    def __init__(
        self, name: str, base_url: str, options: HttpProviderOptions, headers: Mapping[str, str]
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.secrets = (options.api_key, options.proxy)
        self.server_header = ""  # `Server` of the latest response
        self._options = options
        self._headers = dict(headers)
        self._session_lock = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._open_responses: set[aiohttp.ClientResponse] = set()
        self._closed = False

    async def get(
        self,
        path: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> T:
        """GET and decode the JSON response. Raises the errors of `failures`."""
        return await self._fetch(HttpRequest("GET", path, None, params, timeout_s), kind)

    async def post(self, path: str, body: Any, kind: type[T], timeout_s: float | None = None) -> T:
        """POST a JSON body and decode the JSON response. Raises the errors of `failures`."""
        return await self._fetch(HttpRequest("POST", path, body, timeout_s=timeout_s), kind)

    def stream(self, path: str, body: Any) -> "EventStream":
        """POST for an event stream. Leaving it early closes the connection at once."""
        return EventStream(self, HttpRequest("POST", path, body))

    def parse_error(self, value: Any) -> error_body.ProviderErrorBody:
        """The error in a decoded JSON value, without this provider's secrets."""
        return error_body.parse_error_body(value, self.secrets)

    async def send(self, request: HttpRequest) -> "aiohttp.ClientResponse":
        """Send the request and return the response with its body unread.

        The caller gives the response back with `release`.
        """
        session = await self._get_session()
        import aiohttp

        path, content = request.path, request.content
        attempt = partial(
            session.request,
            request.method,
            path if path.startswith("http") else self.base_url + path,
            params=request.params,
            data=content,
            headers=self._headers if content is None else self._headers | _JSON_HEADERS,
            allow_redirects=False,
            timeout=self._client_timeout(request.timeout_s),
        )
        try:
            response = await attempt()
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            if isinstance(error, aiohttp.ClientConnectorError):
                raise
            # The server closed a pooled connection as we picked it: retry once.
            response = await attempt()
        self._open_responses.add(response)
        self.server_header = response.headers.get("Server", "")
        return response

    def release(self, response: "aiohttp.ClientResponse") -> None:
        """Close a response; its connection returns to the pool if the body was read."""
        self._open_responses.discard(response)
        response.close()

    def translate_error(self, error: Exception, timeout_s: float | None) -> ApplianceError | None:
        """The ApplianceError for a transport error; None for any other error."""
        options = self._options
        return failures.from_transport_error(
            self.name,
            error,
            connect_timeout_s=options.connect_timeout_s,
            read_timeout_s=options.read_timeout_s,
            timeout_s=timeout_s or options.timeout_s,
        )

    async def close(self) -> None:
        """Close every connection; open responses fail with ProviderFailed."""
        self._closed = True
        async with self._session_lock:
            if self._session is None:
                return
            for response in tuple(self._open_responses):
                # Closing the session alone would leave their readers waiting.
                response.content.set_exception(ConnectionAbortedError("closed"))
            await self._session.close()

    async def _fetch(self, request: HttpRequest, kind: type[T]) -> T:
        async with HttpExchange(self, request) as exchange:
            return decode_json(self.name, await exchange.read_body(), kind)

    async def _get_session(self) -> "aiohttp.ClientSession":
        if self._session is None or self._closed:
            async with self._session_lock:
                if self._closed:
                    raise failures.provider_failed(self.name, "the server is shutting down")
                if self._session is None:
                    self._session = await open_session(self._options, self.base_url)
        return self._session

    def _client_timeout(self, timeout_s: float | None) -> "aiohttp.ClientTimeout":
        import aiohttp

        options = self._options
        return aiohttp.ClientTimeout(
            total=timeout_s or options.timeout_s,
            connect=options.connect_timeout_s,
            sock_read=options.read_timeout_s,
        )


class HttpExchange:
    """One request and its response.

    `async with` sends the request and waits for a response with status 200; leaving the
    block releases the connection, and closes it if the body was not read to its end.
    Transport errors within the block are raised as ApplianceErrors.
    """

    def __init__(self, client: HttpClient, request: HttpRequest) -> None:
        self._client = client
        self._request = request
        self._open_response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> Self:
        try:
            self._open_response = response = await self._client.send(self._request)
            await self._check_response(response)
        except BaseException as error:
            self._finish(error)
            raise
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: "TracebackType | None",
    ) -> None:
        self._finish(error)

    @property
    def _response(self) -> "aiohttp.ClientResponse":
        if self._open_response is None:
            raise RuntimeError("not within `async with`")
        return self._open_response

    async def read_body(self) -> bytes:
        """The whole response body."""
        return await self._read_all(self._response)

    async def _check_response(self, response: "aiohttp.ClientResponse") -> None:
        """Raise the error that a response with another status than 200 reports."""
        if response.status == HTTP_OK:
            return
        body = bytearray()
        with suppress(TimeoutError):
            async with asyncio.timeout(_ERROR_BODY_TIMEOUT_S):
                while len(body) < _MAX_ERROR_BYTES and (more := await response.content.readany()):
                    body += more
        error = error_body.decode_error_body(bytes(body), self._client.secrets)
        raise failures.from_status(self._client.name, response.status, response.headers, error)

    async def _read_all(self, response: "aiohttp.ClientResponse") -> bytes:
        chunks, size = list[bytes](), 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            self._check_size(size)
        return b"".join(chunks)

    def _check_size(self, size: int) -> None:
        if size > MAX_RESPONSE_BYTES:
            reason = f"its response is larger than {MAX_RESPONSE_BYTES} bytes"
            raise failures.provider_failed(self._client.name, reason)

    def _finish(self, error: BaseException | None) -> None:
        if self._open_response is not None:
            self._client.release(self._open_response)
        if not isinstance(error, Exception):
            return
        translated = self._client.translate_error(error, self._request.timeout_s)
        if translated is not None:
            raise translated from error


class EventStream(HttpExchange):
    """An exchange whose response is server-sent events."""

    def __init__(self, client: HttpClient, request: HttpRequest) -> None:
        super().__init__(client, request)
        self._parser = SseParser()
        self._received_bytes = 0

    async def next_events(self) -> Iterable[ServerEvent] | None:
        """The events that the next chunk completes, perhaps none; None at the stream's end."""
        chunk = await self._response.content.readany()
        if not chunk:
            return None
        self._received_bytes += len(chunk)
        self._check_size(self._received_bytes)
        return self._parser.feed(chunk)

    async def drain(self) -> None:
        """Read the few bytes that may follow the last event, so that the connection is reused."""
        content = self._response.content
        if content.at_eof():
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while not content.at_eof() and await content.readany():
                    pass

    async def _check_response(self, response: "aiohttp.ClientResponse") -> None:
        await super()._check_response(response)
        if response.content_type in _STREAM_TYPES:
            return
        body = await self._read_all(response)
        error = error_body.decode_error_body(body, self._client.secrets)
        if error.message:
            raise failures.from_stream_error(self._client.name, error)
        raise failures.provider_failed(self._client.name, "its response is not an event stream")


def decode_json(name: str, body: bytes, kind: type[T]) -> T:
    """Decode a body of the provider called `name`. Raises ProviderFailed if it doesn't fit."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"its response does not match its API: {error}"
        raise failures.provider_failed(name, reason, HTTP_OK, retryable=True) from None
