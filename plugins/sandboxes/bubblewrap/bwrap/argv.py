"""The arguments of bwrap: what a run sees of the host."""

from pathlib import Path

from appliance.domain import toolchain_cache
from plugins._shared.rootfs import system_mounts
from plugins._shared.stage import init
from plugins._shared.stage.job import CHANGES, TOOLCHAINS
from plugins.sandboxes.bubblewrap.bwrap import hidden_programs, proc_masks
from plugins.sandboxes.bubblewrap.bwrap.layout import INIT_PROGRAM, SandboxPaths
from plugins.sandboxes.bubblewrap.launcher import base_mount
from plugins.sandboxes.bubblewrap.launcher.mounts import BASE, DEVICES, PTS, SHM, TMP, WORKSPACE
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import FILTER_FD, INFO_FD, STREAM_FDS
from plugins.sandboxes.bubblewrap.launcher.spawn_request import KernelLimits

_BIND_OPTIONS = ("--ro-bind", "--ro-bind-try")
_WRITABLE = (
    ("/dev/shm", SHM, "1777"),  # noqa: S108 - the sandbox's own
    ("/tmp", TMP, "1777"),  # noqa: S108 - the sandbox's own
    (init.WORKSPACE, WORKSPACE, "0755"),
)


def build_argv(
    paths: SandboxPaths, slot: int, limits: KernelLimits, *, overlay: bool = False
) -> list[str]:
    """Return bwrap's options and the init process's command line.

    With `overlay` the workspace lies above the base that the launcher has mounted in the slot.

    bwrap applies the options in order: a later one may mount over what an earlier one made.
    Raises OSError if a folder of the root file system can't be read.
    """
    return [
        *_namespace_options(),
        *("--seccomp", str(FILTER_FD)),
        *("--info-fd", str(INFO_FD)),
        *_system_options(paths),
        *("--proc", "/proc"),
        *proc_masks.mask_options(),
        *_device_options(paths, slot),
        *_writable_options(paths, slot, limits),
        *(_overlay_options(paths.slots / str(slot)) if overlay and paths.slots else ()),
        *("--symlink", "../tmp", "/var/tmp"),  # noqa: S108 - the sandbox's own
        *(option for path in ("/proc", "/dev", "/") for option in ("--remount-ro", path)),
        *("--chdir", init.WORKSPACE),
        *("--", paths.supervisor, "-I", "-S", INIT_PROGRAM, *map(str, STREAM_FDS)),
    ]


def _namespace_options() -> list[str]:
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--as-pid-1"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
    ]


def _system_options(paths: SandboxPaths) -> list[str]:
    sources = paths.sources
    words = system_mounts.system_mount_options(sources.root, paths.etc, paths.host_etc)
    if sources.root is not None and paths.root is not None:
        words = _rebase_binds(words, sources.root, paths.root)
    for number, folder in enumerate(paths.toolchains):
        words += ["--ro-bind", str(folder), f"{TOOLCHAINS}/{number}"]
    if paths.toolchain_cache is not None:
        words += ["--ro-bind", str(paths.toolchain_cache), toolchain_cache.MOUNT_POINT]
    words += hidden_programs.mask_options(sources.hidden)
    return [*words, *system_mounts.python_mount_options(paths.python, sources.python_program)]


def _rebase_binds(words: list[str], old: Path, new: Path) -> list[str]:
    """Replace the folder `old` in the sources of bind mounts."""
    prefix = f"{old}/"
    return [
        f"{new}/{word.removeprefix(prefix)}"
        if previous in _BIND_OPTIONS and word.startswith(prefix)
        else word
        for previous, word in zip(["", *words], words, strict=False)
    ]


def _device_options(paths: SandboxPaths, slot: int) -> list[str]:
    if paths.slots is None:
        return ["--dev", "/dev"]
    devices, terminals = paths.slots.parent / DEVICES, paths.slots / str(slot) / PTS
    return ["--dev-bind", str(devices), "/dev", "--dev-bind", str(terminals), "/dev/pts"]


def _overlay_options(slot: Path) -> list[str]:
    """Needs bwrap 0.11. The upper folder is shown read-only to the init process, which saves it."""
    workspace = slot / WORKSPACE
    upper, work = workspace / base_mount.UPPER, workspace / base_mount.WORK
    return [
        *("--overlay-src", str(slot / BASE), "--overlay", str(upper), str(work), init.WORKSPACE),
        *("--ro-bind", str(upper), CHANGES),
    ]


def _writable_options(paths: SandboxPaths, slot: int, limits: KernelLimits) -> list[str]:
    words: list[str] = []
    for path, name, mode in _WRITABLE:
        if paths.slots:
            words += ["--bind", f"{paths.slots}/{slot}/{name}", path]
        else:
            size = limits.workspace_bytes if name == WORKSPACE else limits.tmp_bytes
            words += ["--perms", mode, "--size", str(size), "--tmpfs", path]
    return words
