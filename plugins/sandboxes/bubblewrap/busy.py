"""What other threads' children may briefly be in the way of.

A child that another thread of the service starts holds a copy of every descriptor until
it becomes its program. A file that was just written is open for writing that long: its
file system can't be made read-only (EBUSY), and it can't be run (ETXTBSY).
"""

import errno
import time
from collections.abc import Callable
from typing import TypeVar

_BUSY = frozenset({errno.EBUSY, errno.ETXTBSY})
_PATIENCE_S = 10.0
_PAUSE_S = 0.01

T = TypeVar("T")


def unless_busy(action: Callable[[], T]) -> T:
    """Do it, again while something is in the way; gives up after _PATIENCE_S."""
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in _BUSY or time.monotonic() > deadline:
                raise
        time.sleep(_PAUSE_S)
