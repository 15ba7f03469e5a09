"""The process tree of one run: killing it, and waiting until all of it has ended."""

import asyncio
from collections.abc import Callable

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap.runs.sandbox_handle import Usage
from plugins.sandboxes.bubblewrap.runs.spawner import SandboxPipes

_KILL_S = 10.0
_HARD_KILL_S = 10.0


class ProcessTree:
    """All processes of a sandbox. `on_exit` is called when the last one has ended."""

    def __init__(self, pipes: SandboxPipes, on_exit: Callable[[], None]) -> None:
        self._sandbox = pipes.handle
        self._client = pipes.client
        self._sandbox.add_exit_callback(on_exit)

    @property
    def exited(self) -> bool:
        """Whether all processes have ended."""
        return self._sandbox.exited

    @property
    def usage(self) -> Usage | None:
        """What all processes used; None before the exit and where it is unknown."""
        return self._sandbox.usage

    @property
    def oom_killed(self) -> bool:
        """Whether it was killed because memory ran out; known after the exit."""
        return self._sandbox.oom_killed

    @property
    def lost_reason(self) -> str:
        """Why nothing is known of its end; "" otherwise."""
        return self._sandbox.lost_reason

    def kill(self) -> None:
        """Start to kill it."""
        self._client.kill(self._sandbox, hard=False)

    async def end(self) -> None:
        """Kill it and wait for its exit.

        If it does not exit, kill bwrap and its control group too, then the launcher with all
        other sandboxes. Raises SandboxUnavailable if it exits neither then.
        """
        for hard, seconds in ((False, _KILL_S), (True, _HARD_KILL_S)):
            self._client.kill(self._sandbox, hard=hard)
            if await self._exits_within(seconds):
                return
        # The launcher does not answer: it is stopped or hangs.
        self._client.kill_launcher()
        if not await self._exits_within(_KILL_S + _HARD_KILL_S):
            raise SandboxUnavailable("a sandbox did not end although it was killed")

    async def _exits_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._sandbox.exit_event.wait(), seconds)
        except TimeoutError:
            return False
        return True
