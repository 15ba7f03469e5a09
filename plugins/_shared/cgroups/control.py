"""The control groups of a backend's runs, whatever of them the machine gives.

Used by the launcher, and by backends that have none; so it imports little.
"""

import os
import time
from collections.abc import Callable

from plugins._shared.cgroups import v1, v2
from plugins._shared.cgroups.base import Group, Groups, Limited, NoGroups

REMEDY = "run the service under systemd with Delegate=yes (control groups of version 2), or as root"

_Kind = Callable[[int], Groups]

_CLOSE_S = 5.0
_PAUSE_S = 0.02


class Fence:
    """Finds out at once what there is. `lack` says why there are no groups; "" if there are.

    `service` is the process that these groups are for, with those that it started.
    """

    def __init__(self, service: int = 0) -> None:
        self.lack = ""
        self._abandoned: list[Group] = []
        kinds: list[_Kind] = [v2.available, v1.available]
        self._groups = self._first(kinds, service or os.getpid())

    @property
    def layers(self) -> tuple[str, ...]:
        """What holds; memory is watched where the kernel does not count it as a whole."""
        return self._groups.layers if self._groups else ("memory_watch",)

    @property
    def degraded(self) -> tuple[str, ...]:
        if self._groups:
            return self._groups.degraded
        return (
            f"no cgroup ({self.lack}): memory and processors of a run as a whole are watched, "
            "not enforced by the kernel",
        )

    @property
    def remedy(self) -> str:
        """How to get what is missing; "" if nothing is."""
        return "" if self._groups else REMEDY

    @property
    def counts_memory(self) -> bool:
        return self._groups is not None

    def make(self, limits: Limited) -> Group | None:
        """A group for one run; None without. Raises SandboxUnavailable: never a run without."""
        try:
            return self.group(limits)
        except OSError as error:
            from plugins._shared.stage.unavailable import unavailable

            raise unavailable(
                f"a control group could not be made ({error.strerror})",
                "see that nothing else changes the groups of the service, and start it anew",
            ) from error

    def group(self, limits: Limited) -> Group | None:
        """As `make`, but raises OSError."""
        if self._groups is None:
            return None
        self._abandoned = [group for group in self._abandoned if not group.remove()]
        return self._groups.make(limits)

    def give_up(self, group: Group | None) -> None:
        """Remove a group; one that the kernel still keeps goes with a later one."""
        if group is not None and not group.remove():
            self._abandoned.append(group)

    def close(self) -> bool:
        """Remove everything, and end what is in it; False if the kernel keeps some."""
        deadline = time.monotonic() + _CLOSE_S
        while self._groups is not None and not self._groups.close():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True

    def _first(self, kinds: list[_Kind], service: int) -> Groups | None:
        reasons: list[str] = []
        for kind in kinds:
            try:
                return kind(service)
            except (NoGroups, OSError, ValueError, IndexError) as error:
                reasons.append(str(error))
        self.lack = "; ".join(reasons)
        return None
