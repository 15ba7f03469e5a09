"""The small process that owns every run; started by the service, once (see link.py).

It has one thread, no environment, and where the machine allows it namespaces of its own
for mounts and processes. It imports little: what it imports it keeps in memory.

Two processes, really. The outer one stays in the service's namespaces, divides the control
groups, and waits for the inner one, which starts the sandboxes. When the inner one ends,
for whatever reason, the kernel ends everything in its process namespace; then the outer one
ends what may be left elsewhere, and removes the control groups. When the outer one is
killed, so is the inner one. And when the service ends, the inner one reads the end of
the socket, and ends.

Messages, as words (see wire.py). From the service, on the socket that is descriptor 0:

    (begin)    what to lay out (see nest.py)
    spawn      id, slot, user id or "", bounds, the words of bwrap; with its descriptors
    kill       id, "hard" or ""
    adapt      id, bounds

To the service:

    ready      the nest, why it has no mounts or "", whether control groups count memory,
               their layers, what they lack; with a pidfd of the inner process
    unable     what is wrong, and what helps; then it ends
    met        id: the sandbox is made, and waits for its job
    failed     id, why there will be none
    over       id, wait status, processor time in µs, most memory in bytes, whether it starved
    adapted    id, "" or why it has the bounds that it had
"""

import os
import select
import sys
from collections.abc import Callable

from plugins._shared.cgroups.control import Fence
from plugins.sandboxes.bubblewrap.launcher import limits_codec, mounts, reaper, syscalls
from plugins.sandboxes.bubblewrap.launcher.channel import Channel
from plugins.sandboxes.bubblewrap.launcher.mounts import Nest
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import HIGHEST, Order, Told, Ward
from plugins.sandboxes.bubblewrap.launcher.wire import number, pack

_IGNORED = (2, 15)  # a Ctrl-C or a stop is meant for the service, whose end is ours
_READABLE = select.POLLIN | select.POLLHUP | select.POLLERR
_FDS_PER_RUN = 6


def main(argv: list[str]) -> int:
    """Serve until the service ends. Returns 1 if it never could."""
    del argv
    # Its own environment must hold nothing that a look at it could tell.
    os.environ.clear()
    service = os.getppid()
    syscalls.die_with_parent(False)
    for signal in _IGNORED:
        syscalls.ignore_signal(signal, True)
    _keep_low_descriptors()
    channel = Channel(0)
    _silence(0)
    os.umask(0o022)
    os.chdir("/")
    begin = channel.receive()
    if begin is None:
        return 0
    return _guard(channel, mounts.wanted(begin[0]), service)


def _guard(channel: Channel, plan: mounts.Wanted, service: int) -> int:
    lack = mounts.why_not()
    if lack and os.geteuid() == 0:
        problem = f"the service is root but may not make a mount namespace ({lack})"
        remedy = "start it as an ordinary user, or give it CAP_SYS_ADMIN"
        channel.send(b"unable", problem.encode(), remedy.encode())
        return 1
    fence = Fence(service)
    syscalls.adopt_orphans()
    if not lack:
        mounts.enter()
    inner = os.fork()
    if inner == 0:
        _run_inner(channel, plan, fence, lack)
    channel.close()
    _, status = os.waitpid(inner, 0)
    reaper.end_strays()
    fence.close()
    return 1 if status else 0


def _run_inner(channel: Channel, plan: mounts.Wanted, fence: Fence, lack: str) -> None:
    status = 1
    try:
        syscalls.die_with_parent(True)
        syscalls.adopt_orphans()
        _Launcher(channel, mounts.build(plan, mounts=not lack), fence).serve(lack)
        status = 0
    except OSError as error:
        problem = f"the sandbox's files can't be laid out ({error.strerror})"
        remedy = "see that the service's runtime folder exists, belongs to it and has room"
        channel.send(b"unable", problem.encode(), remedy.encode())
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stderr.flush()
        os._exit(status)


class _Launcher:
    def __init__(self, channel: Channel, home: Nest, fence: Fence) -> None:
        self._channel = channel
        self._nest = home
        self._fence = fence
        self._poll = select.poll()
        self._actions: dict[int, Callable[[], None]] = {}
        self._wards: dict[bytes, Ward] = {}
        self._open = True

    def serve(self, lack: str) -> None:
        self._tell_ready(lack)
        self._watch(self._channel.fileno(), self._take)
        while self._open:
            ready = [(fd, self._actions.get(fd)) for fd, _ in self._poll.poll()]
            for fd, action in ready:
                # One done before may have let go of this descriptor, or used its number again.
                if action is not None and self._actions.get(fd) is action:
                    action()
        for ward in list(self._wards.values()):
            ward.kill(hard=True)

    def _tell_ready(self, lack: str) -> None:
        myself = os.pidfd_open(os.getpid())
        self._channel.send(
            b"ready",
            self._nest.packed(),
            lack.encode(),
            number(int(self._fence.counts_memory)),
            pack(*(layer.encode() for layer in self._fence.layers)),
            pack(*(text.encode() for text in self._fence.degraded)),
            fds=(myself,),
        )
        os.close(myself)

    def _watch(self, fd: int, action: Callable[[], None] | None) -> None:
        if action is not None:
            self._actions[fd] = action
            self._poll.register(fd, _READABLE)
        elif self._actions.pop(fd, None):
            self._poll.unregister(fd)

    def _take(self) -> None:
        message = self._channel.receive()
        if message is None:
            self._open = False
            return
        (what, name, *words), fds = message
        if what == b"spawn":
            self._spawn(name, words, fds)
        elif what == b"adapt":
            self._adapt(name, words)
        elif (ward := self._wards.get(name)) is not None:  # else it is over already
            ward.kill(hard=words == [b"hard"])

    def _spawn(self, name: bytes, words: list[bytes], fds: list[int]) -> None:
        slot, uid, limits, *argv = words
        try:
            if len(fds) != _FDS_PER_RUN:
                raise OSError(24, "the launcher has too many open files")
            user = int(uid) if uid else None
            order = Order(int(slot), user, limits_codec.unpacked(limits), argv, fds)
            self._wards[name] = self._start(name, order)
        except OSError as error:
            self._channel.send(b"failed", name, (error.strerror or str(error)).encode())
        finally:
            for fd in fds:
                os.close(fd)

    def _start(self, name: bytes, order: Order) -> Ward:
        return Ward(
            self._nest,
            self._fence,
            order,
            self._watch,
            Told(lambda: self._channel.send(b"met", name), lambda: self._report(name)),
        )

    def _adapt(self, name: bytes, words: list[bytes]) -> None:
        ward = self._wards.get(name)
        if ward is None:
            self._channel.send(b"adapted", name, b"it is over")
            return
        try:
            ward.limit(limits_codec.unpacked(words[0]))
        except OSError as error:
            self._channel.send(b"adapted", name, (error.strerror or str(error)).encode())
        else:
            self._channel.send(b"adapted", name, b"")

    def _report(self, name: bytes) -> None:
        ward = self._wards.pop(name)
        if os.WIFSIGNALED(ward.status):
            reaper.end_strays({other.pid for other in self._wards.values()})
        usage = ward.usage
        reaped_us = int((usage.ru_utime + usage.ru_stime) * 1e6) if usage else 0
        cpu_us = max(reaped_us, ward.cpu_us)
        reaped_bytes = usage.ru_maxrss * 1024 if usage else 0
        figures = (ward.status, cpu_us, max(reaped_bytes, ward.memory_bytes), int(ward.starved))
        self._channel.send(b"over", name, *map(number, figures))


def _keep_low_descriptors() -> None:
    """Those that bwrap gets its own at must hold nothing that could be overwritten."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < HIGHEST:
        pass
    os.close(fd)


def _silence(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, fd)
    os.close(null)
