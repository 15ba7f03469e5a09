"""The kernel, initramfs and root file system that every guest is started from.

They lie in the data directory under a name that tells what went into them, are made
once, and are never written to again.
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

from plugins._shared.guest.agent_bundle import agent_files, compiled
from plugins._shared.rootfs.python import Interpreter
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.microvm import initramfs, root_image
from plugins.sandboxes.microvm.kernel import Kernel
from plugins.sandboxes.microvm.kernel_modules import Modules

# Raise it when what is made from the same parts changes.
_FORMAT = 1
_LOCK_S = 300.0
_POLL_S = 0.1
_NAMES = ("kernel", "initramfs", "root.img")


class Parts(Struct, frozen=True):
    """What they are made from.

    `base` is the root file system that the administrator chose, if any, and `base_name` what
    tells it from others; `own` are the files of what runs inside.
    """

    kernel: Kernel
    python: Interpreter
    base: Path | None
    base_name: str
    own: Mapping[str, bytes]

    def key(self) -> str:
        """The same key, the same content."""
        image = self.kernel.image.stat()
        known = [_FORMAT, self.kernel.version, image.st_size, image.st_mtime_ns]
        names = [*map(str, known), str(self.kernel.modules), self.base_name]
        names.append(self.python.own.name if self.python.own else self.python.program)
        digest = hashlib.sha256("\n".join(names).encode())
        for name, content in sorted(self.own.items()):
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()[:24]


class Files(Struct, frozen=True):
    """Open for reading; `folder` is where they lie and has room for more."""

    folder: Path
    kernel: int
    initramfs: int
    root: int

    def close(self) -> None:
        for fd in (self.kernel, self.initramfs, self.root):
            os.close(fd)


def parts(kernel: Kernel, python: Interpreter, base: Path | None, base_name: str) -> Parts:
    """Those of this product. Raises SandboxUnavailable."""
    own = {**agent_files(), "init.pyc": compiled("plugins.sandboxes.microvm.guest_init")}
    return Parts(kernel, python, base, base_name, own)


def prepare(data_dir: Path, given: Parts) -> Files:
    """The files, made now if they are not there yet, which takes seconds.

    Raises SandboxUnavailable.
    """
    home = data_dir.absolute() / "microvm"
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = home / given.key()
        with _locked(home / ".lock"):
            if not target.is_dir():
                _clear(home)
                _make(home, target, given)
            opened = [os.open(target / name, os.O_RDONLY) for name in _NAMES]
    except OSError as error:
        raise unavailable(
            f"the guests' root file system can't be made in the data directory ({error})",
            "see that it can be written to and has room",
        ) from error
    return Files(home, *opened)


def _make(home: Path, target: Path, given: Parts) -> None:
    scratch = Path(tempfile.mkdtemp(prefix="unfinished-", dir=home))
    try:
        made = scratch / "made"
        made.mkdir()
        root_image.lay_out(scratch / "tree", given.base, given.python, given.own)
        root_image.write_image(scratch / "tree", made / "root.img")
        modules = Modules(given.kernel.modules)
        (made / "initramfs").write_bytes(initramfs.initramfs(modules))
        shutil.copyfile(given.kernel.image, made / "kernel")
        for name in _NAMES:  # QEMU's own user reads them
            (made / name).chmod(0o444)
        made.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _clear(home: Path) -> None:
    """What was made from other parts, or by a process that was killed."""
    for path in home.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise unavailable(
                    "another process has been making the guests' root file system for "
                    f"{_LOCK_S:.0f} s",
                    "end it",
                )
            time.sleep(_POLL_S)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
