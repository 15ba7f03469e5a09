"""One sandbox in the launcher's hands, from its start to the last trace of it."""

# ruff: noqa: S606
import contextlib
import os
import resource

from plugins.sandboxes.bubblewrap.launcher import reaper, syscalls

TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    from plugins._shared.cgroups.base import Group
    from plugins._shared.cgroups.control import Fence
    from plugins.sandboxes.bubblewrap.launcher.limits_codec import Bounds
    from plugins.sandboxes.bubblewrap.launcher.mounts import Nest

# Where bwrap finds its descriptors; the service words its options with these.
LOG, STREAMS, INFO, FILTER = 2, (3, 4, 5, 6, 7), 8, 9
HIGHEST = 15
"""Descriptors up to here are kept free of anything else."""
FILTERS = {True: "counted.bpf", False: "uncounted.bpf"}
"""The filter's file, by whether a control group counts the memory of the run."""

_INFO_BYTES = 4096
_CHILD_PID = b'"child-pid":'
_FIRST_TO_DIE = b"1000"
_ONE_BYTE = 1
_CAN_NOT_START = 127
_OWN_SIGNALS = (2, 15)  # those that the launcher ignores


class Order:
    """A sandbox to be started: `fds` are its ends of the pipes, for STREAMS and then LOG."""

    def __init__(
        self, slot: int, uid: int | None, bounds: "Bounds", argv: list[bytes], fds: list[int]
    ) -> None:
        self.slot = slot
        self.uid = uid
        self.bounds = bounds
        self.argv = argv
        self.fds = fds


class Told:
    """What is to be done as a sandbox goes on."""

    def __init__(self, met: "Callable[[], None]", over: "Callable[[], None]") -> None:
        self.met = met
        self.over = over


class Ward:
    """A bwrap that was started, and PID 1 of its sandbox, which it makes.

    `watch(fd, action)` has the action done whenever the descriptor is readable; without an
    action it is no longer watched.
    `told.met` is called when PID 1 is known or there will be none, `told.over` when
    everything in the sandbox is dead and cleared away.
    """

    def __init__(
        self,
        nest: "Nest",
        fence: "Fence",
        order: Order,
        watch: "Callable[[int, Callable[[], None] | None], None]",
        told: "Told",
    ) -> None:
        """Raises OSError."""
        self.status = 0
        self.usage: struct_rusage | None = None
        self.starved = False
        self.cpu_us = 0
        self.memory_bytes = 0
        self._nest = nest
        self._fence = fence
        self._slot = order.slot
        self._watch = watch
        self._told = told
        self._doomed = self._known = False
        self._init: int | None = None
        self._group: Group | None = None
        self._said = b""
        self._start(order)
        watch(self._info, self._read_info)
        watch(self._monitor, self._reap)
        if self._group and self._group.alarm is not None:
            watch(self._group.alarm, self._starve)

    def kill(self, *, hard: bool = False) -> None:
        """Begin to end it, by PID 1: bwrap then ends too, and tells what was used.

        A PID 1 not met yet is killed when it is. `hard` kills whatever can be reached.
        """
        if not self._doomed:
            self._doomed = True
            self._see_memory()
        if self._init is not None:
            syscalls.kill(self._init)
        if hard and self.usage is None:
            syscalls.kill(self._monitor)
        if hard and self._group is not None:
            self._group.kill()

    def limit(self, bounds: "Bounds") -> None:
        """Give it other bounds. Raises OSError."""
        if not self._nest.mounts:
            raise OSError(95, "the sandbox's folders are not the launcher's to change")
        self._nest.resize(self._slot, bounds)
        if self._group is not None:
            self._group.limit(bounds)

    def _start(self, order: Order) -> None:
        uid = os.geteuid() if order.uid is None else order.uid
        opened: list[int] = []
        try:
            self._nest.furnish(order.slot, uid, order.bounds)
            self._group = self._fence.group(order.bounds)
            self._info, write_end = os.pipe()
            opened += self._info, write_end
            os.set_blocking(self._info, False)
            name = FILTERS[self._group is not None]
            opened.append(os.open(f"{self._nest.base}/{name}", os.O_RDONLY))
            self.pid = os.fork()
            if self.pid == 0:
                self._become(order, [*order.fds[:-1], *opened[1:]])
            self._monitor = _hold(self.pid)
            opened.remove(self._info)
        except OSError:
            self._clear()
            raise
        finally:
            for fd in opened:
                os.close(fd)

    def _become(self, order: Order, fds: list[int]) -> None:
        """In the new process: put on what bwrap gets, and nothing else, and become it."""
        try:
            os.dup2(order.fds[-1], LOG)
            if self._group is not None:
                self._group.step_in()
            _die_first()
            _dump_nothing()
            os.setsid()
            for number in _OWN_SIGNALS:
                syscalls.ignore_signal(number, False)
            if order.uid is not None:
                os.setgroups([])
                os.setresgid(order.uid, order.uid, order.uid)
                os.setresuid(order.uid, order.uid, order.uid)
            for target, fd in zip((*STREAMS, INFO, FILTER), fds, strict=True):
                os.dup2(fd, target)
            # An empty environment: bwrap's own can be read inside.
            os.execve(self._nest.program, [b"bwrap", *order.argv], {})
        except OSError as error:
            os.write(LOG, f"bwrap could not be started: {error.strerror}\n".encode())
        finally:
            os._exit(_CAN_NOT_START)

    def _read_info(self) -> None:
        try:
            data = os.read(self._info, _INFO_BYTES)
        except BlockingIOError:
            return
        self._said = (self._said + data)[:_INFO_BYTES]
        if not data:
            self._meet()

    def _meet(self) -> None:
        """Take hold of PID 1 by what bwrap said of it, be it to kill it at once."""
        if self._known:
            return
        self._known = True
        self._watch(self._info, None)
        os.close(self._info)
        self._init = self._hold_init()
        if self._init is not None:
            self._watch(self._init, self._see_init_end)
            if self._doomed:
                syscalls.kill(self._init)
        self._told.met()

    def _hold_init(self) -> int | None:
        number = self._said.partition(_CHILD_PID)[2].lstrip().partition(b",")[0].strip(b" \n}")
        if not number.isdigit():
            return None  # there is none: bwrap failed, and ends by itself
        try:
            init = os.pidfd_open(int(number))
        except OSError:
            return None
        # The number may have become somebody else's if both are gone already.
        if reaper.parent(int(number)) not in (self.pid, os.getpid()):
            os.close(init)
            return None
        return init

    def _starve(self) -> None:
        """Memory ran out: the whole run ends, whichever process the kernel would have picked."""
        if self._group is not None and self._group.alarm is not None:
            self._watch(self._group.alarm, None)
        self.starved = True
        self.kill()

    def _reap(self) -> None:
        _, self.status, self.usage = os.wait4(self.pid, 0)
        self._watch(self._monitor, None)
        os.close(self._monitor)
        if not self._known:
            with contextlib.suppress(BlockingIOError):
                self._said += os.read(self._info, _INFO_BYTES)
            self._meet()
        if self._init is None:
            self._end()
        else:
            syscalls.kill(self._init)

    def _see_init_end(self) -> None:
        if self._init is None:
            return
        self._watch(self._init, None)
        os.close(self._init)
        self._init = None
        if self.usage is not None:
            self._end()

    def _end(self) -> None:
        if self._group is not None:
            self.starved = self.starved or self._group.starved()
            # What is killed with its namespace, or beside bwrap, is in nobody's rusage.
            self.cpu_us = self._group.cpu_us()
            if self.starved or self._doomed:
                self._see_memory()
            if os.WIFSIGNALED(self.status):
                self._group.kill()
        self._clear()
        self._told.over()

    def _see_memory(self) -> None:
        if self._group is not None:
            self.memory_bytes = max(self.memory_bytes, self._group.memory_bytes())

    def _clear(self) -> None:
        group, self._group = self._group, None
        if group is not None and group.alarm is not None:
            self._watch(group.alarm, None)
        self._nest.clear(self._slot)
        self._fence.give_up(group)


def _hold(pid: int) -> int:
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        raise


def _die_first() -> None:
    """When the machine's memory runs out, the kernel picks a run and not the service.

    Where that may not be said, it is one precaution less and no reason to fail.
    """
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, _FIRST_TO_DIE)
        os.close(fd)


def _dump_nothing() -> None:
    """No file for what crashes, and no word of it to the machine's own handler (see core(5)).

    The filter keeps the limit so. Whoever was started with a lower one, and may not raise it,
    finds out that it is not so from what the probe says.
    """
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (_ONE_BYTE, _ONE_BYTE))
