"""The command line of bwrap: what a run sees of the host."""

from pathlib import Path

from appliance.domain.execution import Limits
from plugins.inside import stage
from plugins.inside.environment import TOOLCHAINS
from plugins.sandboxes.bubblewrap.places import STAGE, Places

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_LIVE_ETC = ("/etc/ld.so.cache", "/etc/alternatives")


def options(places: Places, limits: Limits, *, seccomp_fd: int, info_fd: int) -> list[str]:
    """Everything but the program to run. Later options work on what earlier ones made."""
    return [
        *_namespaces(),
        *("--seccomp", str(seccomp_fd)),
        *("--info-fd", str(info_fd)),
        *_system(places),
        *("--proc", "/proc"),
        *("--dev", "/dev"),
        *_tmpfs("/dev/shm", limits.tmp_bytes, "1777"),  # noqa: S108 - the sandbox's own
        *_tmpfs("/tmp", limits.tmp_bytes, "1777"),  # noqa: S108 - the sandbox's own
        *_tmpfs(stage.WORKSPACE, limits.workspace_bytes, "0755"),
        *("--symlink", "../tmp", "/var/tmp"),  # noqa: S108 - the sandbox's own
        *(word for path in ("/proc", "/dev", "/") for word in ("--remount-ro", path)),
        *("--chdir", stage.WORKSPACE),
    ]


def supervisor(places: Places, fds: list[int]) -> list[str]:
    """The program that bwrap starts: the stage, with its descriptors."""
    return [places.supervisor, "-I", "-S", STAGE, *map(str, fds)]


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--as-pid-1"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
    ]


def _system(places: Places) -> list[str]:
    words: list[str] = []
    for path in map(Path, _SYSTEM):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    words += ["--ro-bind", str(places.etc), "/etc"]
    for name in (*_LIVE_ETC, *places.host_etc):
        words += ["--ro-bind-try", name, name]
    for number, folder in enumerate(places.toolchains):
        words += ["--ro-bind", str(folder), f"{TOOLCHAINS}/{number}"]
    return [*words, "--ro-bind", str(places.python), "/opt/python"]


def _tmpfs(path: str, size: int, mode: str) -> list[str]:
    return ["--perms", mode, "--size", str(size), "--tmpfs", path]
