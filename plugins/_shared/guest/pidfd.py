"""os.pidfd_open for guests whose kernel has none, as gVisor's may.

Loaded beside the stage, which waits for its child with it.
"""

# The module `signal` takes longer to import than all the rest.
import errno
import os
from typing import Any

_SIGCHLD = 17


def provide() -> None:
    """Put a substitute in place where the kernel's own is missing."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        os.pidfd_open = _pidfd_open


def _pidfd_open(pid: int, flags: int = 0) -> int:
    """A descriptor that becomes readable once this child of ours has ended."""
    if flags:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    told, tell = os.pipe()
    open_ends = [tell]

    def look(*_: Any) -> None:
        if open_ends and _has_ended(pid):
            os.close(open_ends.pop())

    __import__("_signal").signal(_SIGCHLD, look)
    look()
    return told


def _has_ended(child: int) -> bool:
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:  # collected already
        return True
