"""One sandbox of the launcher: bwrap, PID 1 of the sandbox, its slot and its control group.

bwrap forks the sandbox's PID 1, writes that number to the descriptor `--info-fd`, waits for
it, and exits as it did. The launcher holds a pidfd of each. A sandbox is over when both have
ended: with PID 1 the kernel has then killed everything else in its process namespace.
"""

# ruff: noqa: PTH123, S606
import contextlib
import os
import resource

from plugins._shared import linux

TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from collections.abc import Callable
    from resource import struct_rusage

    from plugins._shared.cgroups.base import Group
    from plugins._shared.cgroups.controller import CgroupController
    from plugins.sandboxes.bubblewrap.launcher.mounts import MountLayout
    from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits, SpawnRequest

# bwrap's descriptors; the service names them in bwrap's arguments.
LOG_FD, STREAM_FDS, INFO_FD, FILTER_FD = 2, (3, 4, 5, 6, 7), 8, 9
HIGHEST_RESERVED_FD = 15
"""The launcher opens nothing of its own at descriptors up to this one."""
FILTER_FILES = {True: "counted.bpf", False: "uncounted.bpf"}
"""File of the seccomp filter, by whether a control group counts the run's memory."""

_INFO_BYTES = 4096
_CHILD_PID_KEY = b'"child-pid":'
_OOM_SCORE = b"1000"
# Not 0: then the kernel would still start a handler of core dumps (see core(5)).
_CORE_BYTES = 1
_EXIT_NOT_STARTED = 127
_SIGKILL = 9
_IGNORED_BY_LAUNCHER = (2, 15)


class Callbacks:
    """`on_ready` is called when PID 1 is known or it is certain that there will be none.

    `on_exit` is called when every process of the sandbox has ended and its slot and control
    group are released.
    """

    def __init__(self, on_ready: "Callable[[], None]", on_exit: "Callable[[], None]") -> None:
        self.on_ready = on_ready
        self.on_exit = on_exit


class SandboxProcess:
    """A started bwrap. `fds` are the launcher's ends of its pipes, for STREAM_FDS and LOG_FD.

    `watch(fd, action)` registers an action to be called whenever the descriptor is readable;
    None unregisters it.

    `status`, `usage`, `oom_killed`, `cpu_us` and `memory_bytes` are final when `on_exit` is called.
    """

    def __init__(
        self,
        layout: "MountLayout",
        cgroups: "CgroupController",
        request: "SpawnRequest",
        *,
        fds: list[int],
        watch: "Callable[[int, Callable[[], None] | None], None]",
        callbacks: Callbacks,
    ) -> None:
        """Raises OSError."""
        self.status = 0
        self.usage: struct_rusage | None = None
        self.oom_killed = False
        self.cpu_us = 0
        self.memory_bytes = 0
        self._layout = layout
        self._cgroups = cgroups
        self._slot = request.slot
        self._watch = watch
        self._callbacks = callbacks
        self._kill_requested = self._info_complete = False
        self._init_pidfd: int | None = None
        self._group: Group | None = None
        self._info = b""
        self._start(request, fds)
        watch(self._info_fd, self._read_info)
        watch(self._bwrap_pidfd, self._reap_bwrap)
        self._watch_oom()

    def kill(self, *, hard: bool = False) -> None:
        """Start to end it by killing PID 1; bwrap then ends too and its usage is known.

        If PID 1 is not known yet, it is killed as soon as it is. `hard` also kills bwrap and
        everything in the control group.
        """
        if not self._kill_requested:
            self._kill_requested = True
            self._sample_memory()
        if self._init_pidfd is not None:
            linux.kill_pidfd(self._init_pidfd)
        if hard and self.usage is None:
            linux.kill_pidfd(self._bwrap_pidfd)
        if hard and self._group is not None:
            self._group.kill()

    def set_limits(self, limits: "KernelLimits") -> None:
        """Change its limits. Raises OSError."""
        if not self._layout.mounts:
            raise OSError(95, "the launcher has no mounts of its own to change")
        self._layout.resize_slot(self._slot, limits)
        if self._group is not None:
            self._group.set_limits(limits)

    def _start(self, request: "SpawnRequest", fds: list[int]) -> None:
        uid = os.geteuid() if request.uid is None else request.uid
        opened: list[int] = []
        try:
            self._layout.mount_slot(request.slot, uid, request.limits, request.base)
            self._group = self._cgroups.create_group(request.limits)
            self._info_fd, write_end = os.pipe()
            opened += self._info_fd, write_end
            os.set_blocking(self._info_fd, False)
            name = FILTER_FILES[self._group is not None]
            opened.append(os.open(f"{self._layout.base}/{name}", os.O_RDONLY))
            self.pid = os.fork()
            if self.pid == 0:
                self._exec_bwrap(request, [*fds[:-1], *opened[1:]], fds[-1])
            self._bwrap_pidfd = _open_child_pidfd(self.pid)
            opened.remove(self._info_fd)
        except OSError:
            self._release()
            raise
        finally:
            for fd in opened:
                os.close(fd)

    def _exec_bwrap(self, request: "SpawnRequest", fds: list[int], log: int) -> None:
        """In the child: enter the control group, drop ids and descriptors, and become bwrap."""
        try:
            os.dup2(log, LOG_FD)
            if self._group is not None:
                self._group.enter()
            _raise_oom_score()
            _disable_core_dumps()
            os.setsid()
            for number in _IGNORED_BY_LAUNCHER:
                linux.ignore_signal(number, False)
            if request.uid is not None:
                os.setgroups([])
                os.setresgid(request.uid, request.uid, request.uid)
                os.setresuid(request.uid, request.uid, request.uid)
            for target, fd in zip((*STREAM_FDS, INFO_FD, FILTER_FD), fds, strict=True):
                os.dup2(fd, target)
            # An empty environment: bwrap's own can be read inside.
            os.execve(self._layout.program, [b"bwrap", *request.argv], {})
        except OSError as error:
            os.write(LOG_FD, f"bwrap could not be started: {error.strerror}\n".encode())
        finally:
            os._exit(_EXIT_NOT_STARTED)

    def _read_info(self) -> None:
        try:
            data = os.read(self._info_fd, _INFO_BYTES)
        except BlockingIOError:
            return
        self._info = (self._info + data)[:_INFO_BYTES]
        if not data:
            self._attach_init()

    def _attach_init(self) -> None:
        """Open a pidfd of PID 1, by the number in bwrap's info; kill it if that is due."""
        if self._info_complete:
            return
        self._info_complete = True
        self._watch(self._info_fd, None)
        os.close(self._info_fd)
        self._init_pidfd = self._open_init()
        if self._init_pidfd is not None:
            self._watch(self._init_pidfd, self._handle_init_exit)
            if self._kill_requested:
                linux.kill_pidfd(self._init_pidfd)
        self._callbacks.on_ready()

    def _open_init(self) -> int | None:
        value = self._info.partition(_CHILD_PID_KEY)[2].partition(b",")[0].strip(b" \n}")
        if not value.isdigit():
            return None  # there is none: bwrap failed, and ends by itself
        try:
            init = os.pidfd_open(int(value))
        except OSError:
            return None
        # If both have ended already, the number may be another process's.
        if _parent_of(int(value)) not in (self.pid, os.getpid()):
            os.close(init)
            return None
        return init

    def _watch_oom(self) -> None:
        if self._group is not None and self._group.oom_eventfd is not None:
            self._watch(self._group.oom_eventfd, self._end_on_oom)

    def _end_on_oom(self) -> None:
        """Out of memory: end the whole run, whichever process the kernel would have killed."""
        if self._group is not None and self._group.oom_eventfd is not None:
            self._watch(self._group.oom_eventfd, None)
        self.oom_killed = True
        self.kill()

    def _reap_bwrap(self) -> None:
        _, self.status, self.usage = os.wait4(self.pid, 0)
        self._watch(self._bwrap_pidfd, None)
        os.close(self._bwrap_pidfd)
        if not self._info_complete:
            with contextlib.suppress(BlockingIOError):
                self._info += os.read(self._info_fd, _INFO_BYTES)
            self._attach_init()
        if self._init_pidfd is None:
            self._finish()
        else:
            linux.kill_pidfd(self._init_pidfd)

    def _handle_init_exit(self) -> None:
        if self._init_pidfd is None:
            return
        self._watch(self._init_pidfd, None)
        os.close(self._init_pidfd)
        self._init_pidfd = None
        if self.usage is not None:
            self._finish()

    def _finish(self) -> None:
        if self._group is not None:
            self.oom_killed = self.oom_killed or self._group.oom_killed()
            # The rusage of bwrap lacks processes that the kernel killed with their namespace.
            self.cpu_us = self._group.cpu_us()
            if self.oom_killed or self._kill_requested:
                self._sample_memory()
            if os.WIFSIGNALED(self.status):
                self._group.kill()
        self._release()
        self._callbacks.on_exit()

    def _sample_memory(self) -> None:
        if self._group is not None:
            self.memory_bytes = max(self.memory_bytes, self._group.memory_bytes())

    def _release(self) -> None:
        group, self._group = self._group, None
        if group is not None and group.oom_eventfd is not None:
            self._watch(group.oom_eventfd, None)
        self._layout.unmount_slot(self._slot)
        self._cgroups.release_group(group)


def _open_child_pidfd(pid: int) -> int:
    """Kills the child if that fails. Raises OSError."""
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, _SIGKILL)
        os.waitpid(pid, 0)
        raise


def _parent_of(pid: int) -> int:
    """0 if there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0


def _raise_oom_score() -> None:
    """Have the kernel kill runs before the service when the machine is out of memory.

    Where that is not permitted, runs work all the same.
    """
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(fd, _OOM_SCORE)
        os.close(fd)


def _disable_core_dumps() -> None:
    """Neither write a core file nor start the machine's handler of core dumps (see core(5)).

    The seccomp filter keeps the limit. If the hard limit is lower and can't be raised, the
    probe reports it.
    """
    with contextlib.suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (_CORE_BYTES, _CORE_BYTES))
