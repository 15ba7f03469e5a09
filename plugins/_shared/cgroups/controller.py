"""Creates and removes the control groups of a service's runs, if the machine has any for it.

Imported by the sandbox launcher, so it imports little.
"""

import os
import time
from collections.abc import Callable

from plugins._shared.cgroups import v1, v2
from plugins._shared.cgroups.base import CgroupsUnavailable, Group, GroupFactory, GroupLimits

REMEDY = "run the service under systemd with Delegate=yes (control groups of version 2), or as root"

_Detector = Callable[[int], GroupFactory]

_CLOSE_S = 5.0
_PAUSE_S = 0.02


class CgroupController:
    """Detects the version when it is made. `unavailable_reason` is "" if there are groups.

    `service` is the process whose group is divided (default: this one). It and its descendants
    may be members of that group.
    """

    def __init__(self, service: int = 0) -> None:
        self.unavailable_reason = ""
        self._unremoved: list[Group] = []
        self._groups = self._detect([v2.detect, v1.detect], service or os.getpid())

    @property
    def layers(self) -> tuple[str, ...]:
        """The isolation layers; without control groups, memory is only watched."""
        return self._groups.layers if self._groups else ("memory_watch",)

    @property
    def degraded(self) -> tuple[str, ...]:
        if self._groups:
            return self._groups.degraded
        return (
            f"no cgroup ({self.unavailable_reason}): memory and processors of a run as a whole "
            "are watched, not enforced by the kernel",
        )

    @property
    def remedy(self) -> str:
        """What the administrator can do about missing groups; "" if there are groups."""
        return "" if self._groups else REMEDY

    @property
    def counts_memory(self) -> bool:
        return self._groups is not None

    def create_run_group(self, limits: GroupLimits) -> Group | None:
        """As `create_group`, but raises SandboxUnavailable if the group can't be made."""
        try:
            return self.create_group(limits)
        except OSError as error:
            from appliance.errors import SandboxUnavailable

            raise SandboxUnavailable.with_remedy(
                f"a control group could not be made ({error.strerror})",
                "see that no other program changes the service's groups, and restart the service",
            ) from error

    def create_group(self, limits: GroupLimits) -> Group | None:
        """Make a group for one run; None if this machine has none for us. Raises OSError."""
        if self._groups is None:
            return None
        self._unremoved = [group for group in self._unremoved if not group.remove()]
        return self._groups.create(limits)

    def release_group(self, group: Group | None) -> None:
        """Remove a group; if the kernel still keeps it, that is retried later."""
        if group is not None and not group.remove():
            self._unremoved.append(group)

    def close(self) -> bool:
        """Kill all members and remove all groups; False if the kernel still keeps one."""
        deadline = time.monotonic() + _CLOSE_S
        while self._groups is not None and not self._groups.close():
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE_S)
        return True

    def _detect(self, detectors: list[_Detector], service: int) -> GroupFactory | None:
        reasons: list[str] = []
        for detect in detectors:
            try:
                return detect(service)
            except (CgroupsUnavailable, OSError, ValueError, IndexError) as error:
                reasons.append(str(error))
        self.unavailable_reason = "; ".join(reasons)
        return None
