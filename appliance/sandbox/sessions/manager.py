"""Opens, finds, expires and closes the sandbox sessions of all users."""

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import structlog
from msgspec import Struct

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import MIB, RunRequest, RunResult
from appliance.domain.users import User
from appliance.errors import Conflict, InvalidInput, NotFound, QueueFull, SandboxUnavailable
from appliance.sandbox.runner import SandboxRunner
from appliance.sandbox.sessions.records import SessionRecord, SessionStore
from appliance.sandbox.sessions.session import SandboxSession
from appliance.spi.cancellation import run_to_completion
from appliance.spi.sandbox import RunWatcher

DIRECTORY = "sandbox-sessions"

_SWEEP_S = 30.0
_ID_BYTES = 16

log = structlog.get_logger()


class SessionLimits(Struct, frozen=True):
    """What a caller may lower of a new session; None: the settings' value."""

    max_bytes: int | None = None
    max_files: int | None = None
    lifetime_s: float | None = None
    idle_s: float | None = None


class SessionManager:
    """All sessions of this server. Another user's session is not found. `clock`: epoch seconds."""

    def __init__(
        self,
        runner: SandboxRunner,
        data_dir: Path,
        settings: SandboxSettings,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._runner = runner
        self._settings = settings
        self._clock = clock
        self._store = SessionStore(data_dir / DIRECTORY)
        self._sessions: dict[str, SandboxSession] = {}
        self._sweeping: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Find the sessions of the last start, and expire sessions from now on. Raises OSError."""
        for record in await asyncio.to_thread(lambda: list(self._store.load())):
            self._sessions[record.id] = self._make_session(record)
        await self.remove_expired()
        self._sweeping = asyncio.create_task(self._sweep())

    async def stop(self) -> None:
        """End what runs; the sessions stay."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        for session in list(self._sessions.values()):
            await session.interrupt()

    async def open(self, user: User, limits: SessionLimits | None = None) -> SandboxSession:
        """A new session with an empty workspace.

        Raises InvalidInput for limits above the settings', Conflict if the user has too many
        sessions, QueueFull if there are too many in total, and SandboxUnavailable.
        """
        self._runner.check_sessions()
        await self.remove_expired()
        settings = self._runner.settings_for_plan(user.plan)
        self._check_count(user.id, settings.sessions_per_user)
        record = self._make_record(user.id, limits or SessionLimits(), settings)
        session = self._sessions[record.id] = self._make_session(record)
        try:
            await run_to_completion(asyncio.to_thread(self._store.create, record))
        except OSError as error:
            del self._sessions[record.id]
            raise SandboxUnavailable(
                f"the session's files can't be written ({error.strerror})"
            ) from error
        except asyncio.CancelledError:
            await self._close(session)
            raise
        return session

    def find(self, user_id: int, session_id: str) -> SandboxSession:
        """Raises NotFound."""
        session = self._sessions.get(session_id)
        if session is None or session.record.user_id != user_id or self._is_expired(session):
            raise NotFound("there is no such session; it may have been closed or have expired")
        return session

    def of_user(self, user_id: int) -> tuple[SandboxSession, ...]:
        """The user's sessions, the oldest first."""
        sessions = [each for each in self._sessions.values() if each.record.user_id == user_id]
        return tuple(each for each in sessions if not self._is_expired(each))

    async def exec(
        self,
        user: User,
        session: SandboxSession,
        request: RunRequest,
        watcher: RunWatcher | None = None,
    ) -> RunResult:
        """Run a program in a session, counted as a run of its user.

        Raises as SandboxSession.exec and SandboxRunner.run_for_user do, and Conflict if the root
        file system is not that of the session any more.
        """
        if session.record.rootfs != self._settings.rootfs:
            raise Conflict(
                "the sandbox's root file system has changed since the session was opened; "
                "open a new session"
            )

        async def run(request: RunRequest, watcher: RunWatcher | None) -> RunResult:
            return await self._runner.run_for_user(user.id, user.plan, request, watcher)

        return await session.exec(run, request, watcher)

    async def close(self, user_id: int, session_id: str) -> None:
        """Kill what runs in it and remove its files. Raises NotFound."""
        await run_to_completion(self._close(self.find(user_id, session_id)))

    async def remove_expired(self) -> None:
        """Close the sessions whose time is over."""
        for session in [each for each in self._sessions.values() if self._is_expired(each)]:
            await self._close(session)

    async def _close(self, session: SandboxSession) -> None:
        self._sessions.pop(session.record.id, None)
        try:
            await session.close()
        except OSError as error:  # the next start removes what is left
            log.warning("sandbox.session_not_removed", reason=error.strerror)

    def _is_expired(self, session: SandboxSession) -> bool:
        record, now = session.record, self._clock()
        return now >= (record.expires_at if session.busy else record.ends_at())

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await run_to_completion(self.remove_expired())

    def _check_count(self, user_id: int, per_user: int) -> None:
        own, total = len(self.of_user(user_id)), len(self._sessions)
        if own >= per_user:
            raise Conflict(f"you have {own} of {per_user} sessions; close one first")
        if total >= self._settings.sessions:
            raise QueueFull(
                f"all {self._settings.sessions} sessions are in use; retry later",
                retry_after=_SWEEP_S,
            )

    def _make_record(
        self, user_id: int, limits: SessionLimits, settings: SandboxSettings
    ) -> SessionRecord:
        now = self._clock()
        lifetime_s = _lowered("lifetime_s", limits.lifetime_s, 1, settings.session_lifetime_s)
        return SessionRecord(
            id=secrets.token_hex(_ID_BYTES),
            user_id=user_id,
            max_bytes=int(
                _lowered("max_bytes", limits.max_bytes, 4096, settings.session_mib * MIB)
            ),
            max_files=int(_lowered("max_files", limits.max_files, 16, settings.session_files)),
            created_at=now,
            last_used_at=now,
            expires_at=now + lifetime_s,
            idle_s=_lowered("idle_s", limits.idle_s, 1, settings.session_idle_s),
            rootfs=settings.rootfs,
        )

    def _make_session(self, record: SessionRecord) -> SandboxSession:
        return SandboxSession(self._store, record, self._clock, self._settings.session_queue)


def _lowered(name: str, value: float | None, minimum: float, maximum: float) -> float:
    if value is None:
        return maximum
    if not minimum <= value <= maximum:
        raise InvalidInput.at(name, f"{value:g} is out of range ({minimum:g} to {maximum:g})")
    return value
