"""HTTP with one provider: every answer is bounded, every wait has its end, every failure a name."""

import asyncio
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from appliance.errors import ApplianceError, DeadlineExceeded
from plugins._shared.http_provider import error_body, failures
from plugins._shared.http_provider.exchange import OK, EventStream, Exchange, Question
from plugins._shared.http_provider.options import Options
from plugins._shared.http_provider.session import open_session
from plugins._shared.http_provider.sse import EventTooLong

if TYPE_CHECKING:
    import aiohttp

_JSON = {"Content-Type": "application/json"}
T = TypeVar("T")


class Client:
    """Speaks with one address. `headers` carry the key; nothing of them is ever shown."""

    def __init__(
        self, name: str, base_url: str, options: Options, headers: Mapping[str, str]
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.secrets = (options.api_key, options.proxy)
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
        question = Question("GET", path, params=params, timeout_s=timeout_s)
        async with Exchange(self, question) as answer:
            return self.decoded(await answer.whole(), kind)

    async def post(self, path: str, body: Any, kind: type[T], timeout_s: float | None = None) -> T:
        """The JSON answer of a POST. `path` may be a whole address of the same server."""
        question = Question("POST", path, body, timeout_s=timeout_s)
        async with Exchange(self, question) as answer:
            return self.decoded(await answer.whole(), kind)

    def stream(self, path: str, body: Any) -> EventStream:
        """POST for an event stream. Leaving it early closes the connection at once."""
        return EventStream(self, Question("POST", path, body))

    async def ask(self, question: Question) -> "aiohttp.ClientResponse":
        """The answer as it begins; for Exchange, which gives it back with `answered`."""
        session = await self._opened()
        import aiohttp

        path, content = question.path, question.content
        request = partial(
            session.request,
            question.method,
            path if path.startswith("http") else self.base_url + path,
            params=question.params,
            data=content,
            headers=self._headers if content is None else self._headers | _JSON,
            allow_redirects=False,
            timeout=self._timeout(question.timeout_s),
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
        return response

    def answered(self, response: "aiohttp.ClientResponse") -> None:
        """Close an answer; its connection is kept if nothing of it is left unread."""
        self._open.discard(response)
        response.close()

    def failure(self, error: Exception, timeout_s: float | None) -> ApplianceError | None:
        """What went wrong on the way, in the box's own terms; None for what is in such already."""
        import aiohttp

        if isinstance(error, EventTooLong):
            return failures.failed(self.name, str(error))
        if isinstance(error, (aiohttp.ClientError, TimeoutError, OSError, ValueError)):
            return self._failure(error, timeout_s)
        return None

    def decoded(self, body: bytes, kind: type[T]) -> T:
        """Raises ProviderFailed for what is not of that form."""
        return decoded(self.name, body, kind)

    def said(self, found: Any) -> error_body.Said:
        """What a decoded error says, without this provider's secrets."""
        return error_body.of(found, self.secrets)

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


def decoded(name: str, body: bytes, kind: type[T]) -> T:
    """Raises ProviderFailed for what is not of that form."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = f"its answer is not of its API: {error}"
        raise failures.failed(name, reason, OK, retryable=True) from None
