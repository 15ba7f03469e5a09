"""The launcher: a small process, started once by the service, that owns every run's processes.

It has one thread and an empty environment, and where the machine allows it, its own mount and
process namespaces. Whatever it imports stays in memory, so it imports little.

It consists of two processes. The outer one stays in the service's namespaces, manages the control
groups and waits for the inner one, which starts the sandboxes. When the inner one ends, for any
reason, the kernel kills everything in its process namespace; the outer one then kills its
remaining children and removes the control groups. When the outer one is killed, the parent-death
signal kills the inner one. When the service ends, the inner one reads end-of-file and ends.

Messages are lists of byte strings (see wire.py). From the service, on the socket that is
descriptor 0; the first one has no name:

    (first)    the layout to make (see mounts.LayoutRequest)
    spawn      id, a SpawnRequest; with the launcher's ends of the pipes
    kill       id, "hard" or ""
    adapt      id, the new KernelLimits

To the service:

    ready      the layout, why the launcher has no namespaces or "", whether control groups count
               memory, their layers, what they lack; with a pidfd of the inner process
    unable     problem, remedy; the launcher then ends
    met        id: the sandbox waits for its job
    failed     id, why the sandbox could not be started
    over       id, wait status, CPU time in µs, peak memory in bytes, whether it ran out of memory
    adapted    id, "" or why the limits are unchanged
"""

import contextlib
import os
import select
import sys
from collections.abc import Callable, Collection

from plugins._shared import linux
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.bubblewrap.launcher import mounts, spawn_request
from plugins.sandboxes.bubblewrap.launcher.channel import Channel
from plugins.sandboxes.bubblewrap.launcher.mounts import LayoutRequest, MountLayout
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import (
    HIGHEST_RESERVED_FD,
    Callbacks,
    SandboxProcess,
)
from plugins.sandboxes.bubblewrap.launcher.wire import encode_int, pack

_IGNORED_SIGNALS = (2, 15)  # Ctrl-C and stop are meant for the service; the launcher ends with it
_NO_SIGNAL, _SIGKILL = 0, 9
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_FDS_PER_RUN = 6


def main(argv: list[str]) -> int:
    """Serve until the service ends. Returns 1 if that was not possible."""
    del argv
    # Programs in a sandbox may be able to read it.
    os.environ.clear()
    service_pid = os.getppid()
    linux.set_parent_death_signal(_NO_SIGNAL)
    for number in _IGNORED_SIGNALS:
        linux.ignore_signal(number, True)
    _reserve_low_descriptors()
    channel = Channel(0)
    _redirect_to_null(0)
    os.umask(0o022)
    os.chdir("/")
    first = channel.receive()
    if first is None:
        return 0
    return _run_outer(channel, mounts.decode_layout_request(first[0]), service_pid)


def _run_outer(channel: Channel, request: LayoutRequest, service_pid: int) -> int:
    no_namespaces = mounts.probe_namespaces()
    if no_namespaces and os.geteuid() == 0:
        problem = f"the service is root but may not make a mount namespace ({no_namespaces})"
        remedy = "start it as an ordinary user, or give it CAP_SYS_ADMIN"
        channel.send(b"unable", problem.encode(), remedy.encode())
        return 1
    cgroups = CgroupController(service_pid)
    linux.become_subreaper()
    if not no_namespaces:
        mounts.enter_namespaces()
    inner = os.fork()
    if inner == 0:
        _run_inner(channel, request, cgroups, no_namespaces)
    channel.close()
    _, status = os.waitpid(inner, 0)
    kill_stray_children()
    cgroups.close()
    return 1 if status else 0


def _run_inner(
    channel: Channel, request: LayoutRequest, cgroups: CgroupController, no_namespaces: str
) -> None:
    status = 1
    try:
        linux.set_parent_death_signal(_SIGKILL)
        linux.become_subreaper()
        layout = mounts.build_layout(request, mounts=not no_namespaces)
        _Launcher(channel, layout, cgroups).serve(no_namespaces)
        status = 0
    except OSError as error:
        problem = f"the sandbox's files could not be laid out ({error.strerror})"
        remedy = (
            "see that the service's runtime folder exists, belongs to its user and has free space"
        )
        channel.send(b"unable", problem.encode(), remedy.encode())
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(status)


class _Launcher:
    def __init__(self, channel: Channel, layout: MountLayout, cgroups: CgroupController) -> None:
        self._channel = channel
        self._layout = layout
        self._cgroups = cgroups
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._sandboxes: dict[bytes, SandboxProcess] = {}
        self._connected = True

    def serve(self, no_namespaces: str) -> None:
        self._send_ready(no_namespaces)
        self._watch(self._channel.fileno(), self._handle_message)
        while self._connected:
            ready = [(fd, self._actions.get(fd)) for fd, _ in self._poll.poll()]
            for fd, action in ready:
                # An earlier action may have closed this descriptor, or its number is in use again.
                if action is not None and self._actions.get(fd) is action:
                    action()
        for sandbox in list(self._sandboxes.values()):
            sandbox.kill(hard=True)

    def _send_ready(self, no_namespaces: str) -> None:
        own_pidfd = os.pidfd_open(os.getpid())
        self._channel.send(
            b"ready",
            self._layout.encode(),
            no_namespaces.encode(),
            encode_int(int(self._cgroups.counts_memory)),
            pack(*(layer.encode() for layer in self._cgroups.layers)),
            pack(*(text.encode() for text in self._cgroups.degraded)),
            fds=(own_pidfd,),
        )
        os.close(own_pidfd)

    def _watch(self, fd: int, action: Callable[[], None] | None) -> None:
        if action is not None:
            self._actions[fd] = action
            self._poll.register(fd, _READABLE)
        elif self._actions.pop(fd, None):
            self._poll.unregister(fd)

    def _handle_message(self) -> None:
        message = self._channel.receive()
        if message is None:
            self._connected = False
            return
        (kind, name, *words), fds = message
        if kind == b"spawn":
            self._spawn(name, words, fds)
        elif kind == b"adapt":
            self._set_limits(name, words)
        elif (sandbox := self._sandboxes.get(name)) is not None:  # else it has ended already
            sandbox.kill(hard=words == [b"hard"])

    def _spawn(self, name: bytes, words: list[bytes], fds: list[int]) -> None:
        try:
            if len(fds) != _FDS_PER_RUN:
                raise OSError(24, "the launcher has too many open files")
            self._sandboxes[name] = SandboxProcess(
                self._layout,
                self._cgroups,
                spawn_request.decode_spawn_request(words),
                fds=fds,
                watch=self._watch,
                callbacks=Callbacks(
                    on_ready=lambda: self._channel.send(b"met", name),
                    on_exit=lambda: self._send_exit(name),
                ),
            )
        except OSError as error:
            self._channel.send(b"failed", name, (error.strerror or str(error)).encode())
        finally:
            for fd in fds:
                os.close(fd)

    def _set_limits(self, name: bytes, words: list[bytes]) -> None:
        sandbox = self._sandboxes.get(name)
        if sandbox is None:
            self._channel.send(b"adapted", name, b"the sandbox has ended")
            return
        try:
            sandbox.set_limits(spawn_request.decode_limits(words[0]))
        except OSError as error:
            self._channel.send(b"adapted", name, (error.strerror or str(error)).encode())
        else:
            self._channel.send(b"adapted", name, b"")

    def _send_exit(self, name: bytes) -> None:
        sandbox = self._sandboxes.pop(name)
        if os.WIFSIGNALED(sandbox.status):
            kill_stray_children({other.pid for other in self._sandboxes.values()})
        usage = sandbox.usage
        reaped_us = int((usage.ru_utime + usage.ru_stime) * 1e6) if usage else 0
        reaped_bytes = usage.ru_maxrss * 1024 if usage else 0
        numbers = (
            sandbox.status,
            max(reaped_us, sandbox.cpu_us),
            max(reaped_bytes, sandbox.memory_bytes),
            int(sandbox.oom_killed),
        )
        self._channel.send(b"over", name, *map(encode_int, numbers))


def kill_stray_children(known: Collection[int] = ()) -> None:
    """Kill and reap every child but the known ones.

    If bwrap is killed just after it forked, its child waits forever for data from it and is
    then a child of the launcher, which does not know it.
    """
    while strays := [pid for pid in _list_children() if pid not in known]:
        for pid in strays:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, _SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _list_children() -> list[int]:
    with open("/proc/thread-self/children", "rb") as file:  # noqa: PTH123 - pathlib is large
        return [int(word) for word in file.read().split()]


def _reserve_low_descriptors() -> None:
    """Occupy the descriptor numbers that bwrap gets, so that nothing else is opened there."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < HIGHEST_RESERVED_FD:
        pass
    os.close(fd)


def _redirect_to_null(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
