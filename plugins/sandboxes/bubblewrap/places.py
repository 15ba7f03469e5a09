"""Lays out what a run needs of the host where bwrap can reach it.

bwrap works with the rights of the run's user. For a service that is root this is
a stranger, who can't enter the service's own folders. So the service's thread that
starts the runs gets a mount namespace of its own, and in it a small tmpfs that
holds bwrap, the few files of /etc, and the box's Python. Nobody else sees that
tmpfs, and it is gone with the thread.
"""

import ctypes
import importlib.util
import marshal
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType

from msgspec import Struct

from plugins.sandboxes.bubblewrap import binary, seccomp
from plugins.sandboxes.bubblewrap.busy import unless_busy
from plugins.sandboxes.bubblewrap.diagnosis import unavailable

_CLONE_NEWNS = 0x00020000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 32, 4096
_MS_REC, _MS_SLAVE = 0x4000, 1 << 19
# Where Debian and its kin keep what the JDK reads at its start.
_JAVA = "java-*-openjdk"
_MOUNT_POINTS = ("/mnt", "/media", "/srv", "/opt")

_ETC = {
    "passwd": "sandbox:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "sandbox:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "ld.so.cache": "",
}
STAGE = "/etc/sandbox/stage.pyc"


class Places(Struct, frozen=True):
    """Paths as the starting thread sees them. `python` is the folder of the box's Python.

    `toolchains` are folders of the administrator's choice, `host_etc` what the host's own
    compilers need of /etc.
    """

    bwrap: Path
    etc: Path
    filter: Path
    python: Path
    supervisor: str
    toolchains: tuple[Path, ...] = ()
    host_etc: tuple[str, ...] = ()


def lay_out(
    python: Path, runtime_dir: Path, toolchains: Sequence[Path] = (), *, private: bool
) -> Places:
    """Prepare everything for runs started by the calling thread.

    With `private` the thread is moved into a mount namespace of its own, which only
    root may do. Raises SandboxUnavailable with the reason.
    """
    _check_machine(python)
    bwrap = binary.locate()
    _check_toolchains(toolchains)
    if private:
        base, (python, *toolchains) = _enter_private_namespace([python, *toolchains])
    else:
        base = runtime_dir / "bubblewrap"
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    host_etc = tuple(sorted(str(path) for path in Path("/etc").glob(_JAVA) if path.is_dir()))
    places = Places(
        bwrap=bwrap.copy_to(base),
        etc=_write_etc(base / "etc", host_etc),
        filter=_write(base / "seccomp.bpf", seccomp.program(platform.machine())),
        python=python,
        supervisor=_supervisor(python),
        toolchains=tuple(toolchains),
        host_etc=host_etc,
    )
    if private:
        read_only = _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV
        unless_busy(lambda: _mount("none", base, flags=read_only))
    return places


def _check_machine(python: Path) -> None:
    machine = platform.machine()
    if not seccomp.supported(machine):
        raise unavailable(
            f"no system-call filter is known for {machine} machines",
            "run the service on an x86_64 or aarch64 machine",
        )
    library = "python{}.{}".format(*sys.version_info[:2])
    if not any((python / folder / library).is_dir() for folder in ("lib", "lib64")):
        raise unavailable(
            f"the sandbox's Python is not of the service's own version ({library})",
            "remove the folder sandbox-python from the data directory and start again",
        )


def _check_toolchains(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not (folder.is_absolute() and (folder / "bin").is_dir()):
            raise unavailable(
                f"the setting sandbox.toolchains names {folder}, which is no folder with a bin",
                "name folders by their whole path, such as /opt/go",
            )


def _enter_private_namespace(folders: Sequence[Path]) -> tuple[Path, list[Path]]:
    """A small tmpfs that only this thread sees, and in it the folders, in the order given."""
    mount_point = next((Path(path) for path in _MOUNT_POINTS if Path(path).is_dir()), None)
    if mount_point is None:
        raise unavailable(f"none of the folders {', '.join(_MOUNT_POINTS)} exists", "make one")
    try:
        _call("unshare", ctypes.c_int(_CLONE_NEWNS))
        _mount("none", Path("/"), flags=_MS_REC | _MS_SLAVE)
        # Opened first: the tmpfs may be about to cover it.
        sources = [os.open(folder, os.O_PATH | os.O_DIRECTORY) for folder in folders]
        _mount("tmpfs", mount_point, kind="tmpfs", flags=_MS_NOSUID | _MS_NODEV)
        targets = [_bind(source, mount_point / str(at)) for at, source in enumerate(sources)]
    except OSError as error:
        raise unavailable(
            f"the service is root but may not make a mount namespace ({error.strerror})",
            "start it as an ordinary user, or give it CAP_SYS_ADMIN",
        ) from error
    mount_point.chmod(0o755)
    return mount_point, targets


def _bind(source: int, target: Path) -> Path:
    target.mkdir(mode=0o755)
    _mount(f"/proc/self/fd/{source}", target, flags=_MS_BIND)
    os.close(source)
    return target


def _mount(source: str, target: Path, *, kind: str = "none", flags: int) -> None:
    options = b"size=4m,mode=0755" if kind == "tmpfs" else None
    words = (os.fsencode(source), os.fsencode(target), kind.encode())
    _call("mount", *words, ctypes.c_ulong(flags), options)


def _call(name: str, *arguments: object) -> None:
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _write_etc(folder: Path, host_etc: Sequence[str]) -> Path:
    """The few files of /etc, and a place for each folder of the host's that is bound there."""
    bound = [folder / Path(path).name for path in host_etc]
    for path in (folder, folder / "alternatives", folder / "sandbox", *bound):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)
    for name, text in _ETC.items():
        _write(folder / name, text.encode())
    for name in ("stage", "collect"):
        _write(folder / "sandbox" / f"{name}.pyc", _compiled(name))
    return folder


def _compiled(module: str) -> bytes:
    """A part of the stage as a .pyc file (PEP 552, unchecked), also where there is no source."""
    name = f"plugins.inside.{module}"
    spec = importlib.util.find_spec(name)
    read: Callable[[str], CodeType] | None = getattr(spec and spec.loader, "get_code", None)
    if read is None:
        raise unavailable(f"the module {name} is not whole", "install the product anew")
    unchecked_hash = (1).to_bytes(4, "little") + bytes(8)
    return importlib.util.MAGIC_NUMBER + unchecked_hash + marshal.dumps(read(name))


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o644)
    return path


def _supervisor(python: Path) -> str:
    """The Python that the stage runs under: one that the run's user can't read, if there is."""
    shielded = Path("libexec", "supervisor")
    return f"/opt/python/{shielded if (python / shielded).is_file() else 'bin/python3'}"
