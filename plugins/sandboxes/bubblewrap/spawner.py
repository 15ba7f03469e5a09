"""Starts bwrap, always from one and the same thread.

The kernel ties a child that dies with its parent to the thread that started it, and
a mount namespace can belong to one thread: so one thread, alive as long as the
backend, starts every run.
"""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from msgspec import Struct

from appliance.domain.execution import Limits
from appliance.errors import SandboxUnavailable
from plugins.sandboxes.bubblewrap import command
from plugins.sandboxes.bubblewrap.busy import unless_busy
from plugins.sandboxes.bubblewrap.diagnosis import unavailable
from plugins.sandboxes.bubblewrap.fence import Fence
from plugins.sandboxes.bubblewrap.groups import Group
from plugins.sandboxes.bubblewrap.identity import Identities, identities
from plugins.sandboxes.bubblewrap.leftovers import end_leftovers
from plugins.sandboxes.bubblewrap.places import Places, lay_out

_WRITTEN_BY_US = ("args", "job", "stdin")
_READ_BY_US = ("report", "stdout", "stderr", "log", "info")
_FOR_THE_STAGE = ("job", "report", "stdin", "stdout", "stderr")
_FIRST_TO_DIE = "1000"


class Child(Struct, frozen=True):
    """A started bwrap.

    `fds` are our ends of its pipes by name, non-blocking: job and stdin to write;
    report, stdout, stderr, log (what bwrap itself says) and info to read.
    `pidfd` becomes readable when it has ended; it is then to be reaped by its pid.
    `group` is its control group, to be removed when all in it are dead; None without.
    """

    process: "subprocess.Popen[bytes]"
    pidfd: int
    fds: dict[str, int]
    group: Group | None = None


class Spawner:
    """Owns the starting thread."""

    def __init__(self) -> None:
        self.users = Identities(None)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox-start")
        self._places: Places | None = None
        self._fence: Fence | None = None

    @property
    def fence(self) -> Fence:
        """What the kernel limits for a run as a whole. Only after `start`."""
        if self._fence is None:
            raise SandboxUnavailable("the sandbox was not started")
        return self._fence

    async def start(self, python: Path, runtime_dir: Path, toolchains: Sequence[Path] = ()) -> None:
        """Lay out what the runs need. Raises SandboxUnavailable."""
        self.users = identities()
        private = self.users.own_user
        loop = asyncio.get_running_loop()
        try:
            places = await loop.run_in_executor(
                self._thread, lambda: lay_out(python, runtime_dir, toolchains, private=private)
            )
        except OSError as error:
            raise unavailable(
                f"the service's runtime folder can't be used ({error.strerror})",
                "see that it exists, belongs to the service's user and has room",
            ) from error
        if not private:
            await loop.run_in_executor(self._thread, end_leftovers, places.bwrap)
        self._places = places
        self._fence = await loop.run_in_executor(self._thread, Fence)

    def spawn(self, limits: Limits, uid: int | None) -> "asyncio.Future[Child]":
        """Start a sandbox that waits for its job.

        The future fails with SandboxUnavailable. It must be awaited to its end,
        since the child is the caller's to reap.
        """
        places = self._places
        if places is None:
            raise SandboxUnavailable("the sandbox was not started")
        loop = asyncio.get_running_loop()
        fence = self.fence
        return loop.run_in_executor(self._thread, lambda: _spawn(places, limits, uid, fence))

    def stop(self) -> None:
        """End the thread, and with it every sandbox that may still be alive."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._fence is not None:
            self._fence.close()
            self._fence = None


def _spawn(places: Places, limits: Limits, uid: int | None, fence: Fence) -> Child:
    group = fence.make(limits)
    try:
        return _spawn_in(group, places, limits, uid)
    except BaseException:
        fence.give_up(group)
        raise


def _spawn_in(group: Group | None, places: Places, limits: Limits, uid: int | None) -> Child:
    ours: dict[str, int] = {}
    theirs: dict[str, int] = {}
    try:
        _make_pipes(ours, theirs)
        theirs["filter"] = os.open(places.filter, os.O_RDONLY)
        with group.birthplace() if group else contextlib.nullcontext():
            process = unless_busy(lambda: _start(places, theirs, uid))
        child = _adopt(process, ours, group)
        _instruct(child, places, limits, theirs)
        return child
    except OSError as error:
        _close(ours)
        raise unavailable(
            f"bwrap could not be started ({error.strerror})",
            "see that the service's runtime folder may hold programs (no noexec mount), and "
            "that the limits on processes and open files leave room",
        ) from error
    finally:
        _close(theirs)


def _make_pipes(ours: dict[str, int], theirs: dict[str, int]) -> None:
    for name in _WRITTEN_BY_US:
        theirs[name], ours[name] = os.pipe()
    for name in _READ_BY_US:
        ours[name], theirs[name] = os.pipe()
    for fd in ours.values():
        os.set_blocking(fd, False)


def _start(places: Places, fds: dict[str, int], uid: int | None) -> "subprocess.Popen[bytes]":
    stage = command.supervisor(places, [fds[name] for name in _FOR_THE_STAGE])
    return subprocess.Popen(
        [str(places.bwrap), "--args", str(fds["args"]), "--", *stage],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=fds["log"],
        pass_fds=[fd for name, fd in fds.items() if name != "log"],
        # An empty environment: bwrap's own can be read inside.
        env={},
        cwd="/",
        # A Ctrl-C at the terminal is the service's business.
        start_new_session=True,
        user=uid,
        group=uid,
        extra_groups=None if uid is None else [],
    )


def _adopt(process: "subprocess.Popen[bytes]", ours: dict[str, int], group: Group | None) -> Child:
    """Take charge of a bwrap that waits for its options, and so runs nothing yet."""
    try:
        if group is not None:
            group.take_in(process.pid)
        return Child(process, os.pidfd_open(process.pid), ours, group)
    except OSError:
        process.kill()
        process.wait()
        raise


def _instruct(child: Child, places: Places, limits: Limits, theirs: dict[str, int]) -> None:
    # bwrap reads its options before it makes the sandbox, which so inherits this: when
    # memory runs out, the kernel picks a run and not the service. Where it may not be
    # raised, that is one precaution less and no reason to fail.
    with contextlib.suppress(OSError):
        Path(f"/proc/{child.process.pid}/oom_score_adj").write_text(_FIRST_TO_DIE)
    words = command.options(places, limits, seccomp_fd=theirs["filter"], info_fd=theirs["info"])
    options = child.fds.pop("args")
    # If bwrap is gone already, its end is seen where every end is seen.
    with contextlib.suppress(BrokenPipeError):
        os.write(options, b"".join(os.fsencode(word) + b"\0" for word in words))
    os.close(options)


def _close(fds: dict[str, int]) -> None:
    for fd in fds.values():
        os.close(fd)
