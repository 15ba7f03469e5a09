"""The control groups of this service's runs, whatever of them the machine gives."""

import logging
from collections.abc import Callable

from appliance.domain.execution import Limits
from plugins.sandboxes.bubblewrap import groups_v1, groups_v2
from plugins.sandboxes.bubblewrap.diagnosis import unavailable
from plugins.sandboxes.bubblewrap.groups import Group, Groups, NoGroups
from plugins.sandboxes.bubblewrap.keeper import Keeper, keeper

_REMEDY = (
    "run the service under systemd with Delegate=yes (control groups of version 2), or as root"
)

log = logging.getLogger(__name__)


class Fence:
    """Finds out at once what there is. `lack` says why there are no groups; "" if there are."""

    def __init__(self) -> None:
        self.lack = ""
        self._groups: Groups | None = None
        self._keeper: Keeper | None = None
        self._abandoned: list[Group] = []
        self._groups = self._first([groups_v2.available, groups_v1.available])
        if self._groups is not None:
            self._keeper = keeper(self._groups.tops)

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
        return "" if self._groups else _REMEDY

    @property
    def counts_memory(self) -> bool:
        return self._groups is not None

    def make(self, limits: Limits) -> Group | None:
        """A group for one run; None without. Raises SandboxUnavailable: never a run without."""
        if self._groups is None:
            return None
        self._abandoned = [group for group in self._abandoned if not group.remove()]
        try:
            return self._groups.make(limits)
        except OSError as error:
            raise unavailable(
                f"a control group could not be made ({error.strerror})",
                "see that nothing else changes the groups of the service, and start it anew",
            ) from error

    def give_up(self, group: Group | None) -> None:
        """Remove a group; one that the kernel still keeps goes with a later one."""
        if group is not None and not group.remove():
            self._abandoned.append(group)

    def close(self) -> None:
        for group in self._abandoned:
            group.remove()
        if self._groups is not None:
            try:
                self._groups.close()
            except OSError as error:
                log.warning("control groups of the sandbox are left: %s", error.strerror)
        if self._keeper is not None:
            self._keeper.close()

    def _first(self, kinds: list[Callable[[], Groups]]) -> Groups | None:
        reasons: list[str] = []
        for kind in kinds:
            try:
                return kind()
            except (NoGroups, OSError) as error:
                reasons.append(str(error))
        self.lack = "; ".join(reasons)
        return None
