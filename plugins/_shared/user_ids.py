"""Allocates the host's user ids of runs.

A service that is root gives each run an id that owns nothing on this machine; any other service
can only use its own id.
"""

import os
import sys
from pathlib import Path

from appliance.errors import SandboxUnavailable

# Between the ranges that systemd reserves for containers and for foreign images. Each service
# process has a slice of its own, so that no two services share an id.
_BASE = 2_000_000_000
_PER_PROCESS = 32
_NOBODY = 65534


class UserIdAllocator:
    """Allocates ids from a range (None: only the service's own).

    When all are in use, one is allocated again; the caller must not use it for two runs at a time.
    """

    def __init__(self, ids: range | None) -> None:
        self._ids = ids
        self._use_counts: dict[int, int] = {}

    @property
    def own_user(self) -> bool:
        """Whether runs have a user id of their own, other than the service's."""
        return self._ids is not None

    @property
    def count(self) -> int:
        """Number of ids; unlimited if all runs have the service's own."""
        return sys.maxsize if self._ids is None else len(self._ids)

    def acquire(self) -> int | None:
        """Return the least used id, to be released later; None: the service's own."""
        if self._ids is None:
            return None
        uid = min(self._ids, key=lambda candidate: self._use_counts.get(candidate, 0))
        self._use_counts[uid] = self._use_counts.get(uid, 0) + 1
        return uid

    def release(self, uid: int | None) -> None:
        if uid is not None:
            self._use_counts[uid] -= 1


def create_allocator() -> UserIdAllocator:
    """For the ids that this process may use. Raises SandboxUnavailable if root has none."""
    if os.geteuid() != 0:
        return UserIdAllocator(None)
    start = _BASE + os.getpid() * _PER_PROCESS
    for ids in (range(start, start + _PER_PROCESS), range(_NOBODY, _NOBODY + 1)):
        if _is_mapped(ids, "uid_map") and _is_mapped(ids, "gid_map"):
            return UserIdAllocator(ids)
    raise SandboxUnavailable.with_remedy(
        "the service is root of a user namespace without other user ids",
        "start it as an ordinary user",
    )


def _is_mapped(ids: range, table: str) -> bool:
    for line in Path("/proc/self", table).read_text().splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= ids[0] and ids[-1] < first + count:
            return True
    return False
