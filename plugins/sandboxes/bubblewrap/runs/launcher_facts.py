"""What the launcher found to hold runs with on this machine."""

from msgspec import Struct

from plugins._shared.cgroups.control import REMEDY
from plugins.sandboxes.bubblewrap.diagnosis import remedy_for_namespaces
from plugins.sandboxes.bubblewrap.launcher.wire import unpack

_ONE_BY_ONE = "runs go one at a time, and without memory files (memfd_create)"
_OF_THE_KERNEL = (
    "what the kernel itself keeps for a run, such as what waits unread in its sockets, is no part "
    "of its memory: only the number of sockets is watched"
)


class Walls(Struct, frozen=True):
    """`lack` says why the launcher has no mounts of its own; "" if it has.

    `fence_layers` and `fence_lacks` are those of the control groups.
    """

    lack: str
    counts_memory: bool
    fence_layers: tuple[str, ...]
    fence_lacks: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        return self.fence_layers + (() if self.lack else ("inode_limit",))

    @property
    def degraded(self) -> tuple[str, ...]:
        lacks = self.fence_lacks + (() if self.counts_memory else (_ONE_BY_ONE, _OF_THE_KERNEL))
        if not self.lack:
            return lacks
        return (
            *lacks,
            f"no namespaces for the launcher ({self.lack}): no limit on the number of files "
            "beside the size of the workspace",
        )

    @property
    def remedy(self) -> str:
        """How to get what is missing; "" if nothing is."""
        if not self.counts_memory:
            return REMEDY
        return remedy_for_namespaces() if self.lack else ""


def walls(lack: bytes, counts: bytes, layers: bytes, lacks: bytes) -> Walls:
    """From the launcher's words. Raises ValueError."""
    return Walls(_text(lack), bool(int(counts)), _texts(layers), _texts(lacks))


def _texts(packed: bytes) -> tuple[str, ...]:
    return tuple(map(_text, unpack(packed)))


def _text(word: bytes) -> str:
    return word.decode(errors="replace")
