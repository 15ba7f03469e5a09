"""The process tree of one run: killing it, seeing that it is dead, reaping it."""

import asyncio
import contextlib
import json
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap.spawner import Child

_KILL_S = 10.0
_DEATH_S = 10.0


class Tree:
    """bwrap outside, and the PID 1 that it made; when that one is dead, all inside are.

    `exited` is true when bwrap has ended; `usage` is then what the whole tree used.
    `starved` is true after `end` if the kernel killed in it for want of memory.
    """

    def __init__(self, child: Child, at_exit: Callable[[], None]) -> None:
        self.exited = False
        self.usage: resource.struct_rusage | None = None
        self._doomed = False
        self.starved = False
        self._child = child
        self._at_exit = at_exit
        self._ended = asyncio.Event()
        self._init: int | None = None
        self._init_ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(child.pidfd, self._reap)

    def meet_init(self, info: bytes) -> None:
        """Take hold of PID 1 by what bwrap said of it, be it to kill it at once."""
        try:
            pid = int(json.loads(info)["child-pid"])
            init = os.pidfd_open(pid)
        except (ValueError, KeyError, OSError):
            return  # there is none: bwrap failed, and ends by itself
        # The number may have become somebody else's if both are gone already.
        if self.exited or _parent(pid) != self._child.process.pid:
            os.close(init)
            return
        self._init = init
        self._loop.add_reader(init, self._see_init_end, init)
        if self._doomed:
            _kill(init)

    def kill(self) -> None:
        """Begin to end it, by PID 1: bwrap then ends too, and tells what was used.

        A PID 1 not met yet is killed when it is. To kill bwrap instead would leave a
        child that waits for a word from it, and would wait for ever.
        """
        self._doomed = True
        if self._init is not None:
            _kill(self._init)

    async def end(self) -> None:
        """Kill it and return when everything is dead and reaped.

        Raises SandboxUnavailable if the kernel does not let go of it.
        """
        self.kill()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), _KILL_S)
        if not self.exited:  # it never came so far as to have a PID 1
            _kill(self._child.pidfd)
        group = self._child.group
        if group is not None:
            group.kill()
        try:
            await asyncio.wait_for(self._ended.wait(), _DEATH_S)
            if self._init is not None:
                await asyncio.wait_for(self._init_ended.wait(), _DEATH_S)
                os.close(self._init)
                self._init = None
        except TimeoutError:
            raise SandboxUnavailable("a sandbox that was killed does not end") from None
        finally:
            if group is not None:
                self.starved = group.starved()

    def _reap(self) -> None:
        process = self._child.process
        self._loop.remove_reader(self._child.pidfd)
        os.close(self._child.pidfd)
        _, status, self.usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        self.exited = True
        self._ended.set()
        self._at_exit()

    def _see_init_end(self, init: int) -> None:
        self._loop.remove_reader(init)
        self._init_ended.set()


def _kill(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def _parent(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[1])
    except OSError:
        return 0
