"""The request to start a sandbox, as the service encodes and the launcher decodes it."""

import os

from plugins.sandboxes.bubblewrap.launcher.wire import encode_int, pack, unpack

_MILLIONTHS = 1_000_000


class KernelLimits:
    """The limits of appliance.domain.execution.Limits that the kernel enforces, each at least 1.

    A tmpfs of size 0 or with 0 inodes would be unlimited.
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

    def encode(self) -> bytes:
        numbers = (
            self.memory_bytes,
            self.processes,
            int(self.cpus * _MILLIONTHS),
            self.workspace_bytes,
            self.workspace_files,
            self.tmp_bytes,
        )
        return pack(*map(encode_int, numbers))


class SpawnRequest:
    """A sandbox to start in a slot. `uid` is the run's user id; None: the service's own.

    `argv` are bwrap's arguments, without the program. `base` is the folder to mount as the
    workspace's base; "": none.
    """

    def __init__(
        self,
        slot: int,
        uid: int | None,
        limits: KernelLimits,
        argv: list[bytes],
        base: str = "",
    ) -> None:
        self.slot = slot
        self.uid = uid
        self.limits = limits
        self.argv = argv
        self.base = base

    def encode(self) -> list[bytes]:
        uid = b"" if self.uid is None else encode_int(self.uid)
        base = os.fsencode(self.base)
        return [encode_int(self.slot), uid, self.limits.encode(), base, *self.argv]


def decode_limits(message: bytes) -> KernelLimits:
    """Raises ValueError if the message is malformed."""
    memory, processes, millionths, workspace, files, tmp = map(int, unpack(message))
    return KernelLimits(
        memory_bytes=memory,
        processes=processes,
        cpus=millionths / _MILLIONTHS,
        workspace_bytes=workspace,
        workspace_files=files,
        tmp_bytes=tmp,
    )


def decode_spawn_request(words: list[bytes]) -> SpawnRequest:
    """Raises ValueError if the words are malformed."""
    slot, uid, limits, base, *argv = words
    number = int(uid) if uid else None
    return SpawnRequest(int(slot), number, decode_limits(limits), argv, os.fsdecode(base))
