"""What runs need of the host: what the launcher is to lay out, and where bwrap finds it."""

import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from appliance.errors import SandboxUnavailable
from plugins._shared import bwrap_binary
from plugins._shared.rootfs import system_mounts
from plugins._shared.seccomp import run_filter
from plugins._shared.stage import bytecode, prewarm_setup
from plugins.sandboxes.bubblewrap.launcher.mounts import LayoutRequest
from plugins.sandboxes.bubblewrap.launcher.sandbox_process import FILTER_FILES

_ETC = {
    "passwd": "sandbox:x:1000:1000::/tmp:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
    "group": "sandbox:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "ld.so.cache": "",
}
INIT_PROGRAM = "/etc/sandbox/init.pyc"
_STAGE_MODULES = (
    "plugins._shared.stage.init",
    "plugins._shared.stage.collect",
    "plugins._shared.stage.workspace",
    "plugins._shared.stage.memory_watch",
    "appliance.spi.workspace_archive",
)


class Sources(Struct, frozen=True):
    """Folders of the host that runs see. `python` holds the bundled Python.

    `toolchains` are set by the administrator; `toolchain_cache` holds cached artifacts of
    languages. `hidden` are paths inside of programs that runs can't use. `root` is the root file
    system that runs see, None: the host's own. If runs use that root's Python, `python` is None
    and `python_program` is its path in the root.
    """

    python: Path | None
    toolchains: tuple[Path, ...] = ()
    root: Path | None = None
    python_program: str = ""
    toolchain_cache: Path | None = None
    hidden: tuple[str, ...] = ()


class SandboxPaths(Struct, frozen=True):
    """Where bwrap finds the sources: the paths in the launcher's mount namespace.

    `supervisor` is the Python of the init process, inside. `host_etc` are names in /etc that
    the system's compilers need. `slots` holds the folder of each slot; None if bwrap mounts
    the writable folders itself.
    """

    sources: Sources
    etc: Path
    python: Path | None
    root: Path | None
    toolchains: tuple[Path, ...]
    toolchain_cache: Path | None
    supervisor: str
    host_etc: tuple[str, ...]
    slots: Path | None


def build_layout_request(sources: Sources, runtime_dir: Path) -> LayoutRequest:
    """Raises SandboxUnavailable if the machine or the sources can't be used."""
    _check_machine()
    if sources.python is not None:
        _check_python(sources.python)
    _check_toolchains(sources.toolchains)
    bwrap = bwrap_binary.locate_bwrap()
    folders = (sources.python, sources.root, sources.toolchain_cache, *sources.toolchains)
    etc_folders = ("alternatives", "sandbox", *system_mounts.etc_config_names(sources.root))
    return LayoutRequest(
        str(runtime_dir),
        str(bwrap.program),
        str(bwrap.host_program or ""),
        libraries=list(map(str, bwrap.libraries)),
        folders=[str(folder) for folder in folders if folder],
        directories=[f"etc/{name}" for name in etc_folders],
        files=_build_files(),
    )


def resolve_paths(
    sources: Sources, base: Path, folders: Sequence[str], *, mounts: bool
) -> SandboxPaths:
    """`folders` are the bind mounts of the request's folders, in the same order."""
    rest = list(map(Path, folders))
    python = rest.pop(0) if sources.python else None
    root = rest.pop(0) if sources.root else None
    toolchain_cache = rest.pop(0) if sources.toolchain_cache else None
    if sources.python is not None:
        supervisor = _supervisor_program(sources.python)
    else:
        supervisor = sources.python_program
    return SandboxPaths(
        sources=sources,
        etc=base / "etc",
        python=python,
        root=root,
        toolchains=tuple(rest),
        toolchain_cache=toolchain_cache,
        supervisor=supervisor,
        host_etc=system_mounts.etc_config_names(sources.root),
        slots=base / "slots" if mounts else None,
    )


def _check_machine() -> None:
    machine = platform.machine()
    if not run_filter.is_supported(machine):
        raise SandboxUnavailable.with_remedy(
            f"no system-call filter is known for {machine} machines",
            "run the service on an x86_64 or aarch64 machine",
        )


def _check_python(python: Path) -> None:
    library = "python{}.{}".format(*sys.version_info[:2])
    if not any((python / folder / library).is_dir() for folder in ("lib", "lib64")):
        raise SandboxUnavailable.with_remedy(
            f"the sandbox's Python is not {library}, the service's version",
            "remove the folder sandbox-python from the data directory and restart the service",
        )


def _check_toolchains(folders: Sequence[Path]) -> None:
    for folder in folders:
        if not (folder.is_absolute() and (folder / "bin").is_dir()):
            raise SandboxUnavailable.with_remedy(
                f"sandbox.toolchains: {folder} is not an absolute path of a folder with a bin/",
                "use the absolute paths of the toolchains, such as /opt/go",
            )


def _build_files() -> dict[str, bytes]:
    machine = platform.machine()
    files = {f"etc/{name}": text.encode() for name, text in _ETC.items()}
    for name, content in bytecode.pyc_files(_STAGE_MODULES).items():
        files[f"etc/sandbox/{name}"] = content
    files[prewarm_setup.NODE_PRELOAD_PATH.lstrip("/")] = prewarm_setup.node_preload_script()
    for counted, name in FILTER_FILES.items():
        files[name] = run_filter.build_run_filter(machine, memory_counted=counted)
    return files


def _supervisor_program(python: Path) -> str:
    """The init process's Python, inside: one that the run's user can't read, if there is."""
    unreadable = Path("libexec", "supervisor")
    return f"/opt/python/{unreadable if (python / unreadable).is_file() else 'bin/python3'}"
