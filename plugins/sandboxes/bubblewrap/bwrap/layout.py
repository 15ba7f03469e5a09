"""What a run needs of the host, and where bwrap finds it once the launcher has laid it out."""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from plugins._shared import bwrap_binary
from plugins._shared.rootfs import system_mounts
from plugins._shared.seccomp import run_filter
from plugins._shared.stage import bytecode, prewarm_setup
from plugins._shared.stage.unavailable import unavailable
from plugins.sandboxes.bubblewrap.launcher.mounts import Wanted
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import FILTERS

_ETC = {
    "passwd": "sandbox:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "sandbox:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "ld.so.cache": "",
}
STAGE = "/etc/sandbox/stage.pyc"
_STAGE_MODULES = {"stage": "init", "collect": "collect", "memory": "memory_watch"}


class Sources(Struct, frozen=True):
    """Folders of the host that runs see. `python` is that of the box's Python.

    `toolchains` are of the administrator's choice, `prepared` is what languages have ready-made
    (None: nothing). `root` is the root file system that runs
    see, None: the host's own. Where the root's Python serves instead of the box's, `python`
    is None and `program` names it.
    """

    python: Path | None
    toolchains: tuple[Path, ...] = ()
    root: Path | None = None
    program: str = ""
    prepared: Path | None = None


class Places(Struct, frozen=True):
    """Where bwrap finds that. `seen` is what the service itself sees.

    `host_etc` names what the system's own compilers need of /etc. `slots` holds a folder
    with what is mounted for each run, by its number; None where bwrap mounts that itself.
    """

    seen: Sources
    etc: Path
    python: Path | None
    root: Path | None
    toolchains: tuple[Path, ...]
    prepared: Path | None
    supervisor: str
    host_etc: tuple[str, ...]
    slots: Path | None


def wanted(sources: Sources, runtime_dir: Path) -> Wanted:
    """What the launcher is to lay out. Raises SandboxUnavailable with the reason."""
    _check_machine()
    if sources.python is not None:
        _check_python(sources.python)
    _check_toolchains(sources.toolchains)
    bwrap = bwrap_binary.locate()
    folders = (sources.python, sources.root, sources.prepared, *sources.toolchains)
    rooms = ("alternatives", "sandbox", *system_mounts.config_of(sources.root))
    return Wanted(
        str(runtime_dir),
        str(bwrap.program),
        str(bwrap.of_the_host or ""),
        libraries=list(map(str, bwrap.libraries)),
        folders=[str(folder) for folder in folders if folder],
        rooms=[f"etc/{name}" for name in rooms],
        files=_files(),
    )


def found(sources: Sources, base: Path, folders: Sequence[str], *, mounts: bool) -> Places:
    """Where it lies; `folders` are those of `wanted`, in that order."""
    rest = list(map(Path, folders))
    python = rest.pop(0) if sources.python else None
    root = rest.pop(0) if sources.root else None
    prepared = rest.pop(0) if sources.prepared else None
    return Places(
        seen=sources,
        etc=base / "etc",
        python=python,
        root=root,
        toolchains=tuple(rest),
        prepared=prepared,
        supervisor=_supervisor(sources.python) if sources.python else sources.program,
        host_etc=system_mounts.config_of(sources.root),
        slots=base / "slots" if mounts else None,
    )


def _check_machine() -> None:
    machine = platform.machine()
    if not run_filter.supported(machine):
        raise unavailable(
            f"no system-call filter is known for {machine} machines",
            "run the service on an x86_64 or aarch64 machine",
        )


def _check_python(python: Path) -> None:
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


def _files() -> dict[str, bytes]:
    machine = platform.machine()
    files = {f"etc/{name}": text.encode() for name, text in _ETC.items()}
    for name, module in _STAGE_MODULES.items():
        files[f"etc/sandbox/{name}.pyc"] = bytecode.pyc(module)
    files[prewarm_setup.NODE_STARTER.lstrip("/")] = prewarm_setup.node_starter()
    for counted, name in FILTERS.items():
        files[name] = run_filter.program(machine, memory_counted=counted)
    return files


def _supervisor(python: Path) -> str:
    """The Python that the stage runs under: one that the run's user can't read, if there is."""
    shielded = Path("libexec", "supervisor")
    return f"/opt/python/{shielded if (python / shielded).is_file() else 'bin/python3'}"
