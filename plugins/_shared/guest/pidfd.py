"""Replaces os.pidfd_open in guests whose kernel lacks it, as gVisor's may.

The agent loads this module before the init process, which waits for its child with it.
"""

# The module `signal` takes longer to import than everything else here.
import errno
import os
from typing import Any

_SIGCHLD = 17


def provide() -> None:
    """Install the substitute if the kernel lacks the system call."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        os.pidfd_open = _pidfd_open


def _pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor that becomes readable once this child has ended: a pipe, closed on SIGCHLD."""
    if flags:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    read_end, write_end = os.pipe()
    open_ends = [write_end]

    def close_if_ended(*_: Any) -> None:
        if open_ends and _has_ended(pid):
            os.close(open_ends.pop())

    __import__("_signal").signal(_SIGCHLD, close_if_ended)
    close_if_ended()
    return read_end


def _has_ended(child: int) -> bool:
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # reaped already
        return True
