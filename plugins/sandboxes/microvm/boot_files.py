"""The kernel, initramfs and root file system that every guest is started from.

They lie in the data directory under a name derived from their sources, are made once and never
written to again.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Mapping
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared.guest.agent_bundle import agent_files
from plugins._shared.rootfs.python import Interpreter
from plugins._shared.stage.bytecode import pyc_files
from plugins.sandboxes.microvm import initramfs, root_image
from plugins.sandboxes.microvm.kernel import Kernel
from plugins.sandboxes.microvm.kernel_modules import KernelModules

# Increase it when the same sources give other files.
_FORMAT = 1
_LOCK_S = 300.0
_POLL_S = 0.1
_NAMES = ("kernel", "initramfs", "root.img")


class BootSources(Struct, frozen=True):
    """What the boot files are made from.

    `base` is the root file system that the administrator chose (None: a small one is made), and
    `base_digest` its digest. `guest_files` are the product's own files that run in the guest.
    """

    kernel: Kernel
    python: Interpreter
    base: Path | None
    base_digest: str
    guest_files: Mapping[str, bytes]

    def key(self) -> str:
        """Sources with the same key give the same files."""
        image = self.kernel.image.stat()
        numbers = [_FORMAT, self.kernel.version, image.st_size, image.st_mtime_ns]
        names = [*map(str, numbers), str(self.kernel.modules), self.base_digest]
        names.append(self.python.bundled.name if self.python.bundled else self.python.program)
        digest = hashlib.sha256("\n".join(names).encode())
        for name, content in sorted(self.guest_files.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()[:24]


class BootFiles(Struct, frozen=True):
    """Descriptors open for reading. `folder` is on the same file system, for snapshots."""

    folder: Path
    kernel: int
    initramfs: int
    root: int

    def close(self) -> None:
        for fd in (self.kernel, self.initramfs, self.root):
            os.close(fd)


def boot_sources(
    kernel: Kernel, python: Interpreter, base: Path | None, base_digest: str
) -> BootSources:
    """With the guest files of this version. Raises SandboxUnavailable."""
    guest_files = agent_files() | pyc_files(["plugins.sandboxes.microvm.guest_init"])
    return BootSources(kernel, python, base, base_digest, guest_files)


def prepare_boot_files(data_dir: Path, sources: BootSources) -> BootFiles:
    """Open the files; if they do not exist they are made first, which takes seconds.

    Raises SandboxUnavailable.
    """
    home = data_dir.absolute() / "microvm"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = home / sources.key()
        with _exclusive_lock(home / ".lock"):
            if not target.is_dir():
                _remove_folders(home)
                _build(home, target, sources)
            fds = [os.open(target / name, os.O_RDONLY) for name in _NAMES]
    except OSError as error:
        raise SandboxUnavailable.with_remedy(
            f"the guests' root file system can't be made in the data directory ({error})",
            "check that it is writable and has free space",
        ) from error
    return BootFiles(home, *fds)


def _build(home: Path, target: Path, sources: BootSources) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
    try:
        output = scratch / "output"
        output.mkdir()
        tree = scratch / "tree"
        root_image.build_tree(tree, sources.base, sources.python, sources.guest_files)
        root_image.write_image(tree, output / "root.img")
        modules = KernelModules(sources.kernel.modules)
        (output / "initramfs").write_bytes(initramfs.build_initramfs(modules))
        shutil.copyfile(sources.kernel.image, output / "kernel")
        for name in _NAMES:  # QEMU reads them as another user
            (output / name).chmod(0o444)
        output.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_folders(home: Path) -> None:
    """Remove files of other sources, and what a killed process left."""
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _exclusive_lock(path: Path) -> Generator[None]:
    with path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise SandboxUnavailable.with_remedy(
                    "another process has been making the guests' root file system for "
                    f"{_LOCK_S:.0f} s",
                    "end that process",
                )
            time.sleep(_POLL_S)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
