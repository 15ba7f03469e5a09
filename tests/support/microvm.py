"""Real machines for tests: where QEMU and a kernel are, with KVM or without."""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from appliance.errors import SandboxUnavailable
from appliance.spi.registry import NoModels, PluginContext
from plugins.sandboxes.microvm import kernel

KERNEL = os.environ.get("MONKEY_CODER_TEST_KERNEL", "")


def lack() -> str:
    """Why no machine can be tried here, and how to change that; "" where one can."""
    if not any(
        Path(folder, "qemu-system-x86_64").exists() for folder in ("/usr/bin", "/usr/local/bin")
    ):
        return (
            "qemu-system-x86_64 is missing: apt-get install --no-install-recommends qemu-system-x86"
        )
    try:
        kernel.find(KERNEL)
    except SandboxUnavailable as error:
        return (
            f"{error}; or set MONKEY_CODER_TEST_KERNEL to the vmlinuz of an unpacked kernel package"
        )
    return ""


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


def machines_of(pid: int) -> list[int]:
    """The process ids of the QEMUs below this process."""
    found: list[int] = []
    todo = [pid]
    while todo:
        here = todo.pop()
        for children in Path(f"/proc/{here}/task").glob("*/children"):
            todo += map(int, _read(children).split())
        if Path(f"/proc/{here}/comm").exists() and _read(Path(f"/proc/{here}/comm")).startswith(
            "qemu-system"
        ):
            found.append(here)
    return found


def snapshots() -> list[int]:
    """Descriptors of those that this process keeps, in unnamed files."""
    found: list[int] = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(path)  # noqa: PTH115 - the name is not a path any more
            if "/microvm/#" in target and target.endswith(" (deleted)"):
                found.append(int(path.name))
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
