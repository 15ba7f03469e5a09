"""A small root file system of this machine's programs, and handcrafted tar archives."""

import bz2
import gzip
import io
import lzma
import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from appliance.sandbox.rootfs.formats.entries import ArchiveLimits
from appliance.sandbox.rootfs.store import RootfsStore

MIB = 1024 * 1024
LIMITS = ArchiveLimits(64 * MIB, 2000)
_LIBRARY = re.compile(r"(/\S+) \(0x[0-9a-f]+\)")


def ignore_progress(_step: str, _done: int, _total: int | None) -> None:
    """A progress callback for tests that don't check progress."""


def make_root(folder: Path, programs: Iterable[str] = ("sh", "cat", "ls", "id")) -> Path:
    """A root with these programs and the libraries that they need."""
    for name in ("bin", "etc", "lib", "usr/bin", "usr/share", "tmp"):
        (folder / name).mkdir(parents=True)
    for name in programs:
        path = shutil.which(name, path="/bin:/usr/bin")
        assert path, name
        shutil.copy(Path(path).resolve(), folder / "bin" / name)
    copy_libraries((folder / "bin").iterdir(), folder)
    (folder / "etc" / "os-release").write_text("NAME=tiny\n")
    (folder / "usr" / "share" / "word").write_text("from the root\n")
    (folder / "usr" / "bin" / "words").symlink_to("../share/word")
    (folder / "usr" / "absolute").symlink_to("/usr/share/word")
    return folder


def copy_libraries(programs: Iterable[Path], folder: Path) -> None:
    """The libraries of the programs, each at the path where the loader looks for it."""
    command = ["ldd", *map(str, programs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for name in set(_LIBRARY.findall(done.stdout)):
        target = folder / name[1:]
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(name).resolve(), target)


def copy_libraries_of_python(python: Path, folder: Path) -> None:
    """The libraries of the interpreter in the folder `python` and its extension modules."""
    copy_libraries((python / "bin" / "python3", *python.rglob("*.so")), folder)


def open_store(data_dir: Path, limits: ArchiveLimits = LIMITS) -> RootfsStore:
    data_dir.mkdir(mode=0o700, exist_ok=True)
    return RootfsStore(data_dir, limits)


def remaining_names(data_dir: Path) -> set[str]:
    """Names in the folder of the root file systems."""
    home = data_dir / "sandbox-rootfs"
    return {path.name for path in home.iterdir()} - {".lock"} if home.is_dir() else set()


def tar_of(root: Path, target: Path, change: Callable[[tarfile.TarFile], None]) -> Path:
    """An archive of a valid root with what `change` appends, compressed as its name says."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        archive.add(root, arcname=".")
        change(archive)
    target.write_bytes(packed(plain.getvalue(), target.suffix))
    return target


def packed(content: bytes, ending: str) -> bytes:
    """Compressed quickly, since the tests are not about that."""
    if ending == ".gz":
        return gzip.compress(content, compresslevel=1)
    if ending == ".xz":
        return lzma.compress(content, preset=0)
    return bz2.compress(content, compresslevel=1) if ending == ".bz2" else content


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def add_file(archive: tarfile.TarFile, name: str, content: bytes = b"x", mode: int = 0o644) -> None:
    archive.addfile(member(name, size=len(content), mode=mode), io.BytesIO(content))
