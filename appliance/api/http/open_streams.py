"""Ends streams and WebSockets whose caller has lost the permission to read them."""

import asyncio
from typing import Any

import structlog

from appliance.domain.users import Principal
from appliance.errors import ApplianceError
from appliance.services.accounts.service import Accounts

log = structlog.get_logger()

_CHECK_INTERVAL_S = 2.0


class OpenStream:
    """A response or WebSocket in progress, served by `task`."""

    def __init__(self, principal: Principal, task: "asyncio.Task[Any]") -> None:
        self.principal = principal
        self._task = task
        self._cancelling = task.cancelling()
        self._ended = False

    def end(self) -> None:
        """Cancel the task, once."""
        if not self._ended:
            self._ended = True
            self._task.cancel()

    def caused_cancellation(self) -> bool:
        """Whether the task was cancelled by `end` and by nothing else."""
        return self._ended and self._task.uncancel() <= self._cancelling


class OpenStreams:
    """All open streams. While there are any, their credentials are checked every two seconds."""

    def __init__(self, accounts: Accounts, interval_s: float = _CHECK_INTERVAL_S) -> None:
        self._accounts = accounts
        self._interval_s = interval_s
        self._streams: set[OpenStream] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None

    def open(self, principal: Principal, task: "asyncio.Task[Any]") -> OpenStream:
        """Watch a stream, which is served by `task`, until `close`."""
        stream = OpenStream(principal, task)
        self._streams.add(stream)
        if self._timer is None:
            self._start_timer()
        return stream

    def close(self, stream: OpenStream) -> None:
        self._streams.discard(stream)
        if not self._streams and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._interval_s, self._start_check)

    def _start_check(self) -> None:
        self._check = asyncio.create_task(self._end_revoked())
        self._check.add_done_callback(self._on_checked)

    def _on_checked(self, check: "asyncio.Task[None]") -> None:
        self._timer = None
        if self._streams:
            self._start_timer()
        if not check.cancelled() and (error := check.exception()) is not None:
            log.error("the credentials of open streams can't be checked", exc_info=error)

    async def _end_revoked(self) -> None:
        by_credential: dict[tuple[int | None, str | None], list[OpenStream]] = {}
        for stream in self._streams:
            principal = stream.principal
            by_credential.setdefault((principal.key_id, principal.session_id), []).append(stream)
        for streams in by_credential.values():
            if not await self._is_valid(streams[0].principal):
                for stream in self._streams.intersection(streams):
                    stream.end()

    async def _is_valid(self, principal: Principal) -> bool:
        try:
            return await self._accounts.is_valid(principal)
        except ApplianceError as error:
            # The store is unavailable for now; the next check will tell.
            log.warning("the credentials of open streams can't be checked", reason=error.message)
            return True
