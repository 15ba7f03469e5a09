"""Sandbox sessions for callers: every method requires the scope `sandbox`."""

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import aclosing

from appliance.domain.users import Principal, Scope
from appliance.sandbox.sessions.manager import SessionLimits, SessionManager
from appliance.sandbox.sessions.records import SessionRecord
from appliance.sandbox.sessions.session import FolderEntry, SandboxSession
from appliance.services.accounts import permissions
from appliance.services.sandbox.programs import Program, ProgramResult
from appliance.services.sandbox.run_events import Finished, RunEvent
from appliance.services.sandbox.service import SandboxService


class SessionService:
    """The use cases of sessions. Another user's session is not found."""

    def __init__(self, sandbox: SandboxService, manager: SessionManager) -> None:
        self._sandbox = sandbox
        self._manager = manager

    async def open(
        self, principal: Principal, limits: SessionLimits | None = None
    ) -> SessionRecord:
        """Open a session with an empty workspace. Raises as SessionManager.open does."""
        permissions.require_scope(principal, Scope.SANDBOX)
        return (await self._manager.open(principal.user, limits)).record

    def describe(self, principal: Principal, session_id: str) -> SessionRecord:
        """Raises NotFound."""
        return self._find(principal, session_id).record

    def list_sessions(self, principal: Principal) -> tuple[SessionRecord, ...]:
        """The caller's sessions, the oldest first."""
        permissions.require_scope(principal, Scope.SANDBOX)
        return tuple(session.record for session in self._manager.of_user(principal.user.id))

    async def exec(self, principal: Principal, session_id: str, program: Program) -> ProgramResult:
        """Run a program in the workspace to its end; cancelling the call kills it.

        Its files are added to the workspace first. Raises as SandboxService.run does, NotFound,
        and Conflict if the session is closed meanwhile.
        """
        async with aclosing(self.exec_events(principal, session_id, program)) as events:
            async for event in events:
                if isinstance(event, Finished):
                    return event.result
        raise AssertionError("the events of a run end with Finished or an error")

    def exec_events(
        self, principal: Principal, session_id: str, program: Program
    ) -> AsyncGenerator[RunEvent, None]:
        """As `exec`, with the events of SandboxService.events; closing the generator kills it."""
        session = self._find(principal, session_id)
        return self._sandbox.events(
            principal,
            program,
            lambda request, watcher: self._manager.exec(principal.user, session, request, watcher),
        )

    async def put(
        self,
        principal: Principal,
        session_id: str,
        path: str,
        content: AsyncIterable[bytes],
        *,
        executable: bool = False,
    ) -> int:
        """Add or replace a file; its size. Raises as SandboxSession.put does, and NotFound."""
        session = self._find(principal, session_id)
        return await session.put(path, content, executable=executable)

    async def get(
        self, principal: Principal, session_id: str, path: str
    ) -> AsyncGenerator[bytes, None]:
        """The content of a file, in pieces. Raises as SandboxSession.get does."""
        return await self._find(principal, session_id).get(path)

    async def list_folder(
        self, principal: Principal, session_id: str, folder: str = ""
    ) -> tuple[FolderEntry, ...]:
        """What a folder holds, by name. Raises as SandboxSession.list does."""
        return await self._find(principal, session_id).list(folder)

    async def close(self, principal: Principal, session_id: str) -> None:
        """Kill what runs in it and remove its files. Raises NotFound."""
        permissions.require_scope(principal, Scope.SANDBOX)
        await self._manager.close(principal.user.id, session_id)

    def _find(self, principal: Principal, session_id: str) -> SandboxSession:
        permissions.require_scope(principal, Scope.SANDBOX)
        return self._manager.find(principal.user.id, session_id)
