"""The state of one sandbox, as the launcher reports it to the service."""

import asyncio
from collections.abc import Callable

from msgspec import Struct

from appliance.errors import SandboxUnavailable


class Usage(Struct, frozen=True):
    """What a whole run used: the rusage of its processes, or what its control group counted.

    `max_rss_bytes` is the peak of the largest process that was reaped; for a run that was killed
    and has a control group, the peak of all its processes together.
    """

    cpu_s: float
    max_rss_bytes: int


class SandboxHandle:
    """`exited` is true once every process has ended and its slot is released.

    From then on, `usage` is known, `oom_killed` tells whether memory ran out, and `lost_reason`
    why its end is unknown, if it is. `ready` is done when the sandbox waits for its job.
    """

    def __init__(self, name: bytes, on_exit: Callable[[], None]) -> None:
        self.name = name
        self.exited = False
        self.oom_killed = False
        self.lost_reason = ""
        self.usage: Usage | None = None
        self.exit_event = asyncio.Event()
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._exit_callbacks = [on_exit]

    def add_exit_callback(self, action: Callable[[], None]) -> None:
        """Have it called when the sandbox exits, or soon if it has."""
        if self.exited:
            asyncio.get_running_loop().call_soon(action)
        else:
            self._exit_callbacks.append(action)

    def set_ready(self) -> None:
        """It waits for its job, or bwrap failed and it is about to exit."""
        if self.ready.done():
            raise ValueError
        self.ready.set_result(None)

    def set_failed(self, reason: str) -> None:
        self._fail_ready(
            SandboxUnavailable.with_remedy(
                f"bwrap could not be started ({reason})",
                "raise the service's limits on processes and open files, and see that no other "
                "program changes its control groups",
            )
        )
        self._mark_exited()

    def set_exited(self, _status: int, cpu_us: int, max_rss_bytes: int, oom_killed: int) -> None:
        self.usage = Usage(cpu_us / 1e6, max_rss_bytes)
        self.oom_killed = bool(oom_killed)
        self._mark_exited()

    def set_lost(self, reason: str) -> None:
        self.lost_reason = reason
        self._fail_ready(SandboxUnavailable(reason))
        self._mark_exited()

    def _fail_ready(self, error: SandboxUnavailable) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
            self.ready.exception()  # retrieved: nobody may be waiting any more

    def _mark_exited(self) -> None:
        self.exited = True
        self.exit_event.set()
        for action in self._exit_callbacks:
            action()
