"""What the kernel bounds for a run as a whole, on its way to the launcher."""

from plugins.sandboxes.bubblewrap.launcher.wire import number, pack, unpack

_MILLIONTHS = 1_000_000


class Bounds:
    """Those of appliance.domain.execution.Limits that the kernel holds, none below 1.

    A tmpfs of size 0 or of 0 files would have no bound at all.
    """

    def __init__(
        self,
        *,
        memory_bytes: int,
        processes: int,
        cpus: float,
        workspace_bytes: int,
        workspace_files: int,
        tmp_bytes: int,
    ) -> None:
        self.memory_bytes = max(1, memory_bytes)
        self.processes = max(1, processes)
        self.cpus = cpus
        self.workspace_bytes = max(1, workspace_bytes)
        self.workspace_files = max(1, workspace_files)
        self.tmp_bytes = max(1, tmp_bytes)

    def packed(self) -> bytes:
        numbers = (
            self.memory_bytes,
            self.processes,
            int(self.cpus * _MILLIONTHS),
            self.workspace_bytes,
            self.workspace_files,
            self.tmp_bytes,
        )
        return pack(*map(number, numbers))


def unpacked(message: bytes) -> Bounds:
    """Raises ValueError."""
    memory, processes, millionths, workspace, files, tmp = map(int, unpack(message))
    return Bounds(
        memory_bytes=memory,
        processes=processes,
        cpus=millionths / _MILLIONTHS,
        workspace_bytes=workspace,
        workspace_files=files,
        tmp_bytes=tmp,
    )
