"""Which user ids the runs get.

A service started as root gives each run an id of its own that owns nothing on this
machine; any other service can only give its own id.
"""

import os
import sys
from pathlib import Path

from plugins._shared.stage.unavailable import unavailable

# Between the ranges that systemd sets aside for containers and for foreign images;
# a slice per service process, so that two services never share an id.
_BASE = 2_000_000_000
_PER_PROCESS = 32
_NOBODY = 65534


class Identities:
    """Hands out user ids. Where one is given out twice, the second run waits for the first."""

    def __init__(self, ids: range | None) -> None:
        self._ids = ids
        self._used: dict[int, int] = {}

    @property
    def own_user(self) -> bool:
        """Whether runs have a user id other than the service's."""
        return self._ids is not None

    @property
    def count(self) -> int:
        """How many there are; any number of runs may have the service's own."""
        return sys.maxsize if self._ids is None else len(self._ids)

    def take(self) -> int | None:
        """The least used id, to be given back; None means: the service's own."""
        if self._ids is None:
            return None
        uid = min(self._ids, key=lambda candidate: self._used.get(candidate, 0))
        self._used[uid] = self._used.get(uid, 0) + 1
        return uid

    def give_back(self, uid: int | None) -> None:
        if uid is not None:
            self._used[uid] -= 1


def identities() -> Identities:
    """Those that this process may use. Raises SandboxUnavailable if root has none to give."""
    if os.geteuid() != 0:
        return Identities(None)
    start = _BASE + os.getpid() * _PER_PROCESS
    for ids in (range(start, start + _PER_PROCESS), range(_NOBODY, _NOBODY + 1)):
        if _mapped(ids, "uid_map") and _mapped(ids, "gid_map"):
            return Identities(ids)
    raise unavailable(
        "the service runs as root of a user namespace that holds no other user",
        "start it as an ordinary user",
    )


def _mapped(ids: range, table: str) -> bool:
    for line in Path("/proc/self", table).read_text().splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= ids[0] and ids[-1] < first + count:
            return True
    return False
