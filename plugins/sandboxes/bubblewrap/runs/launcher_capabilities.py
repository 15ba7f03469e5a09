"""What the launcher can enforce on this machine."""

from msgspec import Struct

from plugins._shared.cgroups.controller import REMEDY
from plugins.sandboxes.bubblewrap.diagnosis import namespace_remedy
from plugins.sandboxes.bubblewrap.launcher.wire import unpack

_SERIAL_RUNS = "runs go one at a time, and without memory files (memfd_create)"
_UNCOUNTED_KERNEL_MEMORY = (
    "memory that the kernel keeps for a run, such as unread data in its sockets, is not counted: "
    "only the number of sockets is limited"
)


class LauncherCapabilities(Struct, frozen=True):
    """`no_namespaces` says why the launcher has no namespaces of its own; "" if it has.

    `counts_memory`: control groups count the memory of a run as a whole. `cgroup_layers` and
    `cgroup_degraded` are the control groups' share of the isolation's layers and lacks.
    """

    no_namespaces: str
    counts_memory: bool
    cgroup_layers: tuple[str, ...]
    cgroup_degraded: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        return self.cgroup_layers + (() if self.no_namespaces else ("inode_limit",))

    @property
    def degraded(self) -> tuple[str, ...]:
        degraded = self.cgroup_degraded
        if not self.counts_memory:
            degraded += (_SERIAL_RUNS, _UNCOUNTED_KERNEL_MEMORY)
        if self.no_namespaces:
            degraded += (
                f"no namespaces for the launcher ({self.no_namespaces}): no limit on the number "
                "of files but the size of the workspace",
            )
        return degraded

    @property
    def remedy(self) -> str:
        """What the administrator can do about what is missing; "" if nothing is."""
        if not self.counts_memory:
            return REMEDY
        return namespace_remedy() if self.no_namespaces else ""


def decode_capabilities(
    no_namespaces: bytes, counts_memory: bytes, layers: bytes, degraded: bytes
) -> LauncherCapabilities:
    """From the words of "ready". Raises ValueError if they are malformed."""
    return LauncherCapabilities(
        _decode(no_namespaces),
        bool(int(counts_memory)),
        tuple(map(_decode, unpack(layers))),
        tuple(map(_decode, unpack(degraded))),
    )


def _decode(word: bytes) -> str:
    return word.decode(errors="replace")
