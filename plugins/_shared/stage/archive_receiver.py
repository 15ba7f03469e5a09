"""Writes the archive of a workspace to a file, in a thread, as the sandbox sends it."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from appliance.domain.execution import Limits, WorkspaceTransfer
from appliance.spi.workspace_archive import max_archive_bytes

_BUFFER_BYTES = 1 << 20
# Bytes per second in which a workspace is loaded or saved on a machine that is very busy.
_SLOWEST_TRANSFER = 5 << 20


def create_receiver(transfer: WorkspaceTransfer | None, limits: Limits) -> "ArchiveReceiver | None":
    """None for a run whose workspace is not kept."""
    return ArchiveReceiver(transfer, limits) if transfer and transfer.target else None


class ArchiveReceiver:
    """Call `add` with each piece and `finish` once; `max_bytes` is the most that may come.

    `transfer_s` is the most seconds that loading or saving such a workspace may take.
    `on_pause(True)` asks for no more data until `on_pause(False)`. `problem` is why the file could
    not be written, or "".
    """

    def __init__(self, transfer: WorkspaceTransfer, limits: Limits) -> None:
        self.max_bytes = max_archive_bytes(limits.workspace_bytes, limits.workspace_files)
        self.transfer_s = self.max_bytes / _SLOWEST_TRANSFER
        self.problem = ""
        self.on_pause: Callable[[bool], None] = lambda _: None
        self._target = Path(transfer.target)
        self._fd = -1
        self._pending = bytearray()
        self._task: asyncio.Task[None] | None = None

    def add(self, data: bytes) -> None:
        self._pending += data
        if self._task is None:
            self._task = asyncio.create_task(self._write_pending())
        if len(self._pending) > _BUFFER_BYTES:
            self.on_pause(True)

    async def finish(self, *, complete: bool) -> None:
        """Write the rest to the disk, or remove the file if it is not complete."""
        if self._task is not None:
            await self._task
        await asyncio.to_thread(self._finish, complete)

    async def _write_pending(self) -> None:
        while self._pending:
            data, self._pending = self._pending, bytearray()
            await asyncio.to_thread(self._write, data)
            self.on_pause(False)
        self._task = None

    def _write(self, data: bytearray) -> None:
        if self.problem:
            return
        try:
            self._open()
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError as error:
            self.problem = f"its archive can't be written ({error.strerror})"

    def _open(self) -> None:
        if self._fd < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            self._fd = os.open(self._target, flags, 0o600)

    def _finish(self, complete: bool) -> None:
        try:
            if complete and not self.problem:
                self._open()  # an empty workspace sends nothing
                os.fsync(self._fd)
        except OSError as error:
            self.problem = f"its archive can't be written ({error.strerror})"
        if self._fd >= 0:
            os.close(self._fd)
        if self.problem or not complete:
            with contextlib.suppress(OSError):
                self._target.unlink()
