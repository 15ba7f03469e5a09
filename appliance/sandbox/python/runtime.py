"""The sandbox's own Python: interpreter, standard library and pytest in one folder.

It lies in the data directory as `sandbox-python/<key>/`, is created once per key and always
mounted read-only. A source checkout builds it from the running interpreter; the executable
contains it as an archive.
"""

import contextlib
import fcntl
import shutil
import tarfile
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from appliance.errors import SetupError
from appliance.processes import is_frozen, resource_dir
from appliance.sandbox.python import build

ARCHIVE = "sandbox-python.tar.xz"

_LOCK_S = 300.0
_POLL_S = 0.1
_UNFINISHED = ".unfinished-"
_CHECK = "import pytest, json, hashlib, zlib, ctypes, ssl, sqlite3"


def ensure_runtime(data_dir: Path) -> Path:
    """The folder of the sandbox's Python; creates it if it does not exist.

    Safe for concurrent processes. Takes seconds the first time, a few file look-ups afterwards.
    Raises SetupError.
    """
    folder = data_dir.absolute() / "sandbox-python"
    archive = resource_dir() / ARCHIVE if is_frozen() else None
    target = folder / (_packed_key(archive) if archive else build.runtime_key())
    try:
        if not target.is_dir():
            _create_once(folder, target, archive)
    except OSError as error:
        raise SetupError(
            f"the sandbox's Python can't be written to the data directory: {error}"
        ) from error
    return target


def pack_runtime(target: Path) -> None:
    """Write the archive for the executable (tar, xz). Raises SetupError."""
    with tempfile.TemporaryDirectory(prefix="sandbox-python-") as scratch:
        tree = Path(scratch, "tree")
        build.build_runtime(tree)
        check_runtime(tree)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            archive.add(tree, arcname=build.runtime_key(), filter=_owned_by_nobody)


def check_runtime(tree: Path) -> None:
    """Run the interpreter in `tree` once. Raises SetupError with its error message."""
    build.run_python(tree, ["-I", "-c", _CHECK])


def _create_once(folder: Path, target: Path, archive: Path | None) -> None:
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _lock_file(folder / ".lock"):
        if not target.is_dir():
            _create(folder, target, archive)


def _create(folder: Path, target: Path, archive: Path | None) -> None:
    # Remains of processes that were killed. Errors are ignored: a child may still be writing.
    for stale in folder.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder))
    try:
        tree = scratch / "tree"
        if archive:
            _unpack(archive, scratch, tree)
        else:
            build.build_runtime(tree)
        check_runtime(tree)
        _add_supervisor(tree)
        tree.chmod(0o755)
        tree.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _unpack(archive: Path, scratch: Path, tree: Path) -> None:
    with tarfile.open(archive, "r:xz") as packed:
        packed.extractall(scratch, filter="tar")
    (scratch / _packed_key(archive)).rename(tree)


def _packed_key(archive: Path) -> str:
    try:
        with tarfile.open(archive, "r:xz") as packed:
            first = packed.next()
    except (OSError, tarfile.TarError, EOFError) as error:
        raise SetupError(f"{archive.name} in the executable can't be read: {error}") from error
    if first is None or "/" in first.name or not first.isdir():
        raise SetupError(f"{archive.name} in the executable has an unexpected content")
    return first.name


def _add_supervisor(tree: Path) -> None:
    """Add a second interpreter that is executable but not readable, to supervise untrusted code.

    The kernel keeps other processes of the same user from reading the memory of such a process.
    """
    folder = tree / "libexec"
    folder.mkdir(mode=0o755)
    hidden = Path(shutil.copyfile(tree / "bin" / "python3", folder / "supervisor"))
    hidden.chmod(0o111)


def _owned_by_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


@contextlib.contextmanager
def _lock_file(path: Path) -> Generator[None]:
    with path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise SetupError(
                    "another process has been creating the sandbox's Python for "
                    f"{_LOCK_S:.0f} s; stop it, or remove {path.parent.name} in the data directory"
                )
            time.sleep(_POLL_S)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
