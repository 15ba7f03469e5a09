"""HTTP client of a running server: its URL, the API key, and tasks from start to end."""

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import httpx
from msgspec import DecodeError, Struct
from msgspec import json as msgspec_json

from appliance.cli.support.instance import data_dir
from appliance.config.home import expand_home
from appliance.config.settings import Settings
from appliance.errors import ApplianceError, InvalidInput, SetupError, Unavailable

URL_VARIABLE = "MONKEY_CODER_URL"
KEY_VARIABLE = "MONKEY_CODER_API_KEY"
KEY_FILE_VARIABLE = "MONKEY_CODER_API_KEY_FILE"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")
# The server sends a heartbeat every 15 s; a minute of silence means that it is gone.
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_CANCEL_TIMEOUT_S = 5.0
_RECONNECTS = 5

Frame = dict[str, Any]


class _ServerFile(Struct):
    """The file that a running server writes into its data directory."""

    url: str
    pid: int


def find_url(explicit: str | None, settings: Settings, environ: Mapping[str, str]) -> str:
    """The server's URL: the flag, the variable, or the server of this data directory."""
    url = explicit or environ.get(URL_VARIABLE) or _local_server_url(settings)
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url.rstrip("/")
    raise InvalidInput(f"{url!r} is not a server URL; write http://HOST:PORT")


def find_key(key_file: Path | None, environ: Mapping[str, str]) -> str:
    """The API key: never an argument, which every user of the machine could read."""
    named = key_file or environ.get(KEY_FILE_VARIABLE)
    if key_file is None and environ.get(KEY_VARIABLE):
        key, place = environ[KEY_VARIABLE].strip(), KEY_VARIABLE
    elif named:
        key, place = _read_key_file(expand_home(named)), str(named)
    else:
        raise SetupError(
            f"no API key: put one into {KEY_VARIABLE}, or into a file and name it with --key-file "
            f"or {KEY_FILE_VARIABLE}; `monkey-coder key create` makes one"
        )
    if not _KEY.fullmatch(key):
        raise SetupError(f"{place} holds no API key")
    return key


def _read_key_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(8192).strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise SetupError(f"API key file {path}: {reason}") from None


def _local_server_url(settings: Settings) -> str:
    path = data_dir(settings) / "run" / "server.json"
    try:
        return msgspec_json.decode(path.read_bytes(), type=_ServerFile).url
    except (OSError, DecodeError):
        raise SetupError(
            f"no server runs in {path.parent.parent}; start it with `monkey-coder serve`, or "
            f"name its address with --url or {URL_VARIABLE}"
        ) from None


class ApiClient:
    """Requests to one server. Raises ApplianceError with the server's message."""

    def __init__(self, url: str, key: str) -> None:
        self._url = url
        try:
            self._http = httpx.AsyncClient(
                base_url=url,
                headers={"Authorization": f"Bearer {key}"},
                timeout=_TIMEOUT,
                # The proxy in the environment is for other hosts, not for loopback.
                trust_env=urlsplit(url).hostname not in _LOOPBACK,
            )
        except (ValueError, ImportError, httpx.InvalidURL):
            raise SetupError(
                f"{url} is no address that can be used, or HTTP_PROXY, HTTPS_PROXY or ALL_PROXY "
                "is none: write http://HOST:PORT"
            ) from None

    async def close(self) -> None:
        await self._http.aclose()

    async def run(self, body: Mapping[str, Any]) -> AsyncGenerator[Frame, None]:
        """Start the task of an execute body, which has a `task_id`, and yield its frames.

        A connection that breaks is taken up again behind the last frame seen.
        """
        task_id, seen, failures = str(body["task_id"]), 0, 0
        while True:
            try:
                async with aclosing(self._frames(body, task_id, seen)) as frames:
                    async for number, frame in frames:
                        seen, failures = number, 0
                        yield frame
                        if frame.get("type") in ("complete", "error"):
                            return
                reason = "the stream ended early"
            except httpx.TransportError as error:
                if not seen and isinstance(error, httpx.ConnectError):
                    raise Unavailable(f"no server answers at {self._url}: {error}") from None
                reason = str(error) or type(error).__name__
            failures += 1
            if failures > _RECONNECTS:
                raise Unavailable(
                    f"lost connection to {self._url} ({reason}); the task is {task_id}"
                )
            await asyncio.sleep(0.25 * 2**failures)

    async def cancel(self, task_id: str) -> None:
        """Cancel a task; a task that has ended or never started is not an error."""
        async with asyncio.timeout(_CANCEL_TIMEOUT_S):
            await self._http.post(f"/api/v1/tasks/{task_id}/cancel")

    async def get(self, path: str) -> Any:
        """The JSON answer of GET `path`."""
        try:
            answer = await self._http.get(path)
        except httpx.TransportError as error:
            raise Unavailable(f"no server answers at {self._url}: {error}") from None
        if answer.status_code != HTTPStatus.OK:
            raise error_from_response(answer.status_code, answer.content)
        return answer.json()

    async def post_stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Frame, None]:
        """The frames answered to this body; closing the generator ends the request."""
        request = self._http.build_request("POST", path, json=body)
        try:
            answer = await self._http.send(request, stream=True)
            try:
                if answer.status_code != HTTPStatus.OK:
                    raise error_from_response(answer.status_code, await answer.aread())
                async for _, frame in _events(answer):
                    yield frame
            finally:
                await answer.aclose()
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"lost connection to {self._url}: {reason}") from None

    async def _frames(
        self, body: Mapping[str, Any], task_id: str, seen: int
    ) -> AsyncGenerator[tuple[int, Frame], None]:
        """(number, frame) of the stream, starting after frame number `seen`."""
        if seen:
            request = self._http.build_request(
                "GET", f"/api/v1/tasks/{task_id}/events?after={seen}"
            )
        else:
            request = self._http.build_request("POST", "/api/v1/execute/stream", json=body)
        answer = await self._http.send(request, stream=True)
        try:
            if answer.status_code != HTTPStatus.OK:
                raise error_from_response(answer.status_code, await answer.aread())
            async for item in _events(answer):
                yield item
        finally:
            await answer.aclose()


async def _events(answer: httpx.Response) -> AsyncGenerator[tuple[int, Frame], None]:
    """Server-sent events: lines of fields, ended by an empty line; comments start with a colon."""
    number, data = 0, list[str]()
    async for line in answer.aiter_lines():
        name, _, value = line.partition(":")
        if name == "id" and value.strip().isdecimal():
            number = int(value)
        elif name == "data":
            data.append(value.removeprefix(" "))
        elif not line and data:
            frame = json.loads("\n".join(data))
            data.clear()
            if isinstance(frame, dict):
                yield number, cast("Frame", frame)


def error_from_response(status: int, content: bytes) -> ApplianceError:
    """The server's error, with a hint if it concerns the API key."""
    message = f"the server answered {status}"
    try:
        answer = json.loads(content)
        message = str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message += "; the body is not a Monkey Coder error: check the URL"
    if status == HTTPStatus.UNAUTHORIZED:
        message += f" (the key comes from --key-file, {KEY_VARIABLE} or {KEY_FILE_VARIABLE})"
    return ApplianceError(message)
