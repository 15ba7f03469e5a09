"""The sandbox's own Python: interpreter, standard library and pytest in one folder.

It lies under the data directory as `sandbox-python/<key>/`, is made once per key
and only ever mounted read-only. From source it is built from the interpreter that
runs the product; the executable carries it packed.
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
from appliance.processes import frozen, resource_dir
from appliance.sandbox.python import build

ARCHIVE = "sandbox-python.tar.xz"

_LOCK_S = 300.0
_POLL_S = 0.1
_UNFINISHED = ".unfinished-"
_CHECK = "import pytest, json, hashlib, zlib, ctypes, ssl, sqlite3"


def prepare(data_dir: Path) -> Path:
    """The folder of the sandbox's Python, made now if it is not there yet.

    Safe while other processes do the same. Takes seconds the first time, and the
    time of a few file look-ups afterwards. Raises SetupError.
    """
    home = data_dir.absolute() / "sandbox-python"
    archive = resource_dir() / ARCHIVE if frozen() else None
    target = home / (_packed_key(archive) if archive else build.key())
    try:
        if not target.is_dir():
            _make_alone(home, target, archive)
    except OSError as error:
        raise SetupError(
            f"the sandbox's Python can't be written below the data directory: {error}"
        ) from error
    return target


def pack(target: Path) -> None:
    """Write the archive that the executable carries (tar, xz). Raises SetupError."""
    with tempfile.TemporaryDirectory(prefix="sandbox-python-") as scratch:
        tree = Path(scratch, "tree")
        build.build(tree)
        check(tree)
        with tarfile.open(target, "w:xz", preset=9) as archive:
            archive.add(tree, arcname=build.key(), filter=_owned_by_nobody)


def check(tree: Path) -> None:
    """Run the interpreter in `tree` once. Raises SetupError with what it said."""
    build.run_python(tree, ["-I", "-c", _CHECK])


def _make_alone(home: Path, target: Path, archive: Path | None) -> None:
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(home / ".lock"):
        if not target.is_dir():
            _make(home, target, archive)


def _make(home: Path, target: Path, archive: Path | None) -> None:
    # Left by a process that was killed; what a child of it still writes to goes another time.
    for left in home.glob(f"{_UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=home))
    try:
        tree = scratch / "tree"
        if archive:
            _unpack(archive, scratch, tree)
        else:
            build.build(tree)
        check(tree)
        _hide_supervisor(tree)
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
        raise SetupError(f"{archive.name} in the executable is not what it should be")
    return first.name


def _hide_supervisor(tree: Path) -> None:
    """A second interpreter that may be run but not read.

    The kernel keeps the memory of such a process from all others of the same user:
    the sandbox watches hostile code with it.
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
def _locked(path: Path) -> Generator[None]:
    with path.open("w") as lock:
        deadline = time.monotonic() + _LOCK_S
        while not _try_lock(lock.fileno()):
            if time.monotonic() > deadline:
                raise SetupError(
                    "another process has been making the sandbox's Python for "
                    f"{_LOCK_S:.0f} s; end it, or remove {path.parent.name} from the data directory"
                )
            time.sleep(_POLL_S)
        yield


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
