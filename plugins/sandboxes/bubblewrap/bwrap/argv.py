"""The command line of bwrap: what a run sees of the host."""

from pathlib import Path

from appliance.domain import toolchain_cache
from plugins._shared.rootfs import system_mounts
from plugins._shared.stage import init
from plugins._shared.stage.environment import TOOLCHAINS
from plugins.sandboxes.bubblewrap.bwrap import proc_masks
from plugins.sandboxes.bubblewrap.bwrap.layout import STAGE, Places
from plugins.sandboxes.bubblewrap.launcher.limits_codec import Bounds
from plugins.sandboxes.bubblewrap.launcher.mounts import DEVICES, SHARED, TERMINALS, TMP, WORKSPACE
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import FILTER, INFO, STREAMS

_BINDS = ("--ro-bind", "--ro-bind-try")
_WRITABLE = (
    ("/dev/shm", SHARED, "1777"),  # noqa: S108 - the sandbox's own
    ("/tmp", TMP, "1777"),  # noqa: S108 - the sandbox's own
    (init.WORKSPACE, WORKSPACE, "0755"),
)


def words(places: Places, slot: int, bounds: Bounds) -> list[str]:
    """Options and the stage. Later options work on what earlier ones made."""
    return [
        *_namespaces(),
        *("--seccomp", str(FILTER)),
        *("--info-fd", str(INFO)),
        *_system(places),
        *("--proc", "/proc"),
        *proc_masks.words(),
        *_devices(places, slot),
        *_writable(places, slot, bounds),
        *("--symlink", "../tmp", "/var/tmp"),  # noqa: S108 - the sandbox's own
        *(word for path in ("/proc", "/dev", "/") for word in ("--remount-ro", path)),
        *("--chdir", init.WORKSPACE),
        *("--", places.supervisor, "-I", "-S", STAGE, *map(str, STREAMS)),
    ]


def _namespaces() -> list[str]:
    return [
        *("--unshare-user", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"),
        *("--unshare-cgroup-try", "--disable-userns", "--as-pid-1"),
        *("--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--uid", "1000", "--gid", "1000", "--hostname", "sandbox"),
    ]


def _system(places: Places) -> list[str]:
    seen = places.seen
    words = system_mounts.system(seen.root, places.etc, places.host_etc)
    if seen.root is not None and places.root is not None:
        words = _moved(words, seen.root, places.root)
    for number, folder in enumerate(places.toolchains):
        words += ["--ro-bind", str(folder), f"{TOOLCHAINS}/{number}"]
    if places.prepared is not None:
        words += ["--ro-bind", str(places.prepared), toolchain_cache.INSIDE]
    return [*words, *system_mounts.python(places.python, seen.program)]


def _moved(words: list[str], old: Path, new: Path) -> list[str]:
    """With what is bound from below one folder bound from below another."""
    start = f"{old}/"
    return [
        f"{new}/{word.removeprefix(start)}" if before in _BINDS and word.startswith(start) else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _devices(places: Places, slot: int) -> list[str]:
    if places.slots is None:
        return ["--dev", "/dev"]
    devices, terminals = places.slots.parent / DEVICES, places.slots / str(slot) / TERMINALS
    return ["--dev-bind", str(devices), "/dev", "--dev-bind", str(terminals), "/dev/pts"]


def _writable(places: Places, slot: int, bounds: Bounds) -> list[str]:
    words: list[str] = []
    for path, name, mode in _WRITABLE:
        if places.slots:
            words += ["--bind", f"{places.slots}/{slot}/{name}", path]
        else:
            size = bounds.workspace_bytes if name == WORKSPACE else bounds.tmp_bytes
            words += ["--perms", mode, "--size", str(size), "--tmpfs", path]
    return words
