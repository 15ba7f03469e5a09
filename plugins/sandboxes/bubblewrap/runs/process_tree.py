"""The process tree of one run: killing it, and seeing that it is dead."""

import asyncio
from collections.abc import Callable

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap.runs.launcher_handle import Usage
from plugins.sandboxes.bubblewrap.runs.spawner import Child

_KILL_S = 10.0
_DEATH_S = 10.0


class Tree:
    """A sandbox and everything in it. `at_exit` is called when it is over."""

    def __init__(self, child: Child, at_exit: Callable[[], None]) -> None:
        self._sandbox = child.process
        self._link = child.link
        self._sandbox.call_at_end(at_exit)

    @property
    def exited(self) -> bool:
        """Whether all of it is dead."""
        return self._sandbox.over

    @property
    def usage(self) -> Usage | None:
        """What the whole tree used; None before its end, and where nobody can tell."""
        return self._sandbox.usage

    @property
    def starved(self) -> bool:
        """Whether it ended for want of memory; known at its end."""
        return self._sandbox.starved

    @property
    def lost(self) -> str:
        """Why nothing is known of its end; "" else."""
        return self._sandbox.lost

    def kill(self) -> None:
        """Begin to end it."""
        self._link.kill(self._sandbox, hard=False)

    async def end(self) -> None:
        """Kill it and return when everything is dead and cleared away.

        Raises SandboxUnavailable if the kernel does not let go of it.
        """
        for hard, patience in ((False, _KILL_S), (True, _DEATH_S)):
            self._link.kill(self._sandbox, hard=hard)
            if await self._over(patience):
                return
        # Nobody answers for it: a launcher that is stopped, or stuck.
        self._link.break_off()
        if not await self._over(_KILL_S + _DEATH_S):
            raise SandboxUnavailable("a sandbox that was killed does not end")

    async def _over(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._sandbox.ended.wait(), seconds)
        except TimeoutError:
            return False
        return True
