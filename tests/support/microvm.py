"""Virtual machines for tests, with or without KVM: requirements, context, running processes."""

import contextlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SandboxUnavailable
from appliance.spi.registry import NoModels, PluginContext
from plugins.sandboxes.microvm import kernel

only_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="microvm is x86_64 only")
KERNEL = os.environ.get("MONKEY_CODER_TEST_KERNEL", "")


def missing_requirement() -> str:
    """Why no machine can be started here and what to install; "" if one can."""
    if not any(
        Path(folder, "qemu-system-x86_64").exists() for folder in ("/usr/bin", "/usr/local/bin")
    ):
        return (
            "qemu-system-x86_64 is missing: apt-get install --no-install-recommends qemu-system-x86"
        )
    try:
        kernel.find_kernel(KERNEL)
    except SandboxUnavailable as error:
        return (
            f"{error}; or set MONKEY_CODER_TEST_KERNEL to the vmlinuz of an unpacked kernel package"
        )
    return ""


needs_microvm = pytest.mark.skipif(
    bool(missing_requirement()), reason=f"needs microvm: {missing_requirement()}"
)


def context(python: Path, data_dir: Path, runtime_dir: Path, **settings: Any) -> PluginContext:
    return PluginContext(
        data_dir=data_dir,
        runtime_dir=runtime_dir,
        settings={"microvm_kernel": KERNEL, "microvm_emulation": True, **settings},
        models=NoModels(),
        child_argv=lambda module: [sys.executable, module],
        host_env=dict,
        child_env=dict,
        sandbox_python=lambda: python,
    )


def qemu_pids_below(pid: int) -> list[int]:
    """The process ids of the QEMUs below this process."""
    pids: list[int] = []
    todo = [pid]
    while todo:
        here = todo.pop()
        for children in Path(f"/proc/{here}/task").glob("*/children"):
            todo += map(int, _read(children).split())
        if Path(f"/proc/{here}/comm").exists() and _read(Path(f"/proc/{here}/comm")).startswith(
            "qemu-system"
        ):
            pids.append(here)
    return pids


def snapshot_fds() -> list[int]:
    """Descriptors of the snapshots that this process keeps, which are unnamed files."""
    fds: list[int] = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(path)  # noqa: PTH115 - the name is not a path any more
            if "/microvm/#" in target and target.endswith(" (deleted)"):
                fds.append(int(path.name))
    return fds


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
