"""The root file system of the guests: its content, and the image of it.

It is the one that the administrator chose, or else a small one: the bundled Python, a shell and
common tools of the host. It is written as an ext4 image, which every server kernel can read and
`mke2fs -d` makes without privileges.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from appliance.errors import SandboxUnavailable
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm.initramfs import SANDBOX

_TOOLS = (
    "sh", "bash", "cat", "ls", "cp", "mv", "rm", "mkdir", "rmdir", "ln", "touch", "chmod", "echo",
    "printf", "test", "[", "env", "true", "false", "sleep", "head", "tail", "cut", "sort", "uniq",
    "wc", "tr", "tee", "sed", "grep", "awk", "find", "xargs", "diff", "basename", "dirname", "date",
    "id", "uname", "readlink", "realpath", "mktemp", "seq", "expr", "tar", "gzip", "od", "dd",
)  # fmt: skip
_LOADER = "/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = ("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1",
              "libutil.so.1", "libresolv.so.2", "libgcc_s.so.1")  # fmt: skip
_FOLDERS = ("dev", "proc", "sys", "tmp", "workspace", "run", "var", "etc", "opt", "root", "home")
_MERGED = ("bin", "sbin", "lib", "lib64")
_ETC = {
    "passwd": "root:x:0:0::/:/bin/sh\nsandbox:x:1000:1000::/tmp:/bin/sh\n"
    "nobody:x:65534:65534::/:/bin/false\n",
    "group": "root:x:0:\nsandbox:x:1000:\nnogroup:x:65534:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
}
# No journal and no space to grow: it is read-only.
_EXT4 = (
    *("-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-E", "root_owner=0:0"),
    *("-O", "^has_journal,^metadata_csum,^resize_inode"),
)
_LIBRARY_LINE = re.compile(r"(/\S+) \(0x[0-9a-f]+\)$", re.MULTILINE)
_TOOL_S = 30.0
_IMAGE_S = 300.0
_SLACK = 16 * 1024 * 1024
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def build_tree(
    folder: Path, base: Path | None, python: Interpreter, guest_files: Mapping[str, bytes]
) -> None:
    """Build the tree: a copy of `base` or a small one, with the Python and the guest files.

    Raises SandboxUnavailable or OSError.
    """
    if base is None:
        _build_small_root(folder)
    else:
        shutil.copytree(base, folder, symlinks=True)
    for name in _FOLDERS:
        if not (folder / name).is_symlink():
            (folder / name).mkdir(exist_ok=True)
    for name, text in _ETC.items():
        if base is None or not (folder / "etc" / name).exists():
            (folder / "etc" / name).write_text(text)
    _install_python(folder / "opt/python", python)
    sandbox = folder / SANDBOX.lstrip("/")
    sandbox.mkdir()
    for name, content in guest_files.items():
        (sandbox / name).write_bytes(content)


def write_image(folder: Path, image: Path) -> None:
    """Write the tree as an ext4 image. Raises SandboxUnavailable."""
    program = shutil.which("mke2fs", path=_PATH)
    if program is None:
        raise SandboxUnavailable.with_remedy(
            "the program mke2fs is missing", "install the package e2fsprogs"
        )
    files = list(folder.rglob("*"))
    sizes = sum(path.lstat().st_size + 4096 for path in files)
    with image.open("wb") as file:
        file.truncate(_rounded(sizes + sizes // 20 + len(files) * 512 + _SLACK))
    done = subprocess.run(
        [program, *_EXT4, "-N", str(len(files) + 64), "-d", str(folder), str(image)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_IMAGE_S,
        check=False,
    )
    if done.returncode:
        message = done.stderr.decode(errors="replace").strip()[-300:]
        raise SandboxUnavailable.with_remedy(
            f"mke2fs could not make the guests' root file system ({message})",
            "check that the data directory has free space",
        )


def _build_small_root(folder: Path) -> None:
    folder.mkdir()
    for name in _MERGED:
        (folder / "usr" / name).mkdir(parents=True)
        (folder / name).symlink_to(f"usr/{name}")
    _copy(Path(_LOADER), folder)
    tools = {name: path for name in _TOOLS if (path := shutil.which(name, path=_PATH))}
    if "sh" not in tools:
        raise SandboxUnavailable.with_remedy(
            "this machine has no shell (sh)", "install one, such as the package dash"
        )
    for name, path in tools.items():
        _copy_as(Path(path), folder / "usr/bin" / name)
    for library in {*_required_libraries(tools.values()), *_libc_libraries()}:
        _copy(Path(library), folder)


def _libc_libraries() -> list[str]:
    """Libraries of the C library that the Python and its modules load."""
    home = next(
        Path(path).parent for path in _required_libraries(["/bin/sh"]) if path.endswith("libc.so.6")
    )
    return [str(home / name) for name in _LIBRARIES if (home / name).exists()]


def _required_libraries(programs: Iterable[str]) -> set[str]:
    libraries: set[str] = set()
    for program in programs:
        done = subprocess.run(
            [_LOADER, "--list", program],
            env={}, capture_output=True, text=True, timeout=_TOOL_S, check=False,
        )  # fmt: skip
        # A script has none; if its interpreter is missing, it fails when it is run.
        libraries.update(_LIBRARY_LINE.findall(done.stdout))
    return libraries


def _copy(source: Path, folder: Path) -> None:
    """Copy to the same path below `folder`, whose links lead to the same folder as the host's."""
    _copy_as(source, folder / str(source).lstrip("/"))


def _copy_as(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755)


def _copy_tree(source: Path, target: Path) -> None:
    """Copy also programs that the owner may execute but not read."""

    def copy(path: str, to: str) -> None:
        mode = Path(path).stat().st_mode & 0o777
        try:
            shutil.copyfile(path, to)
        except PermissionError:
            shutil.copyfile(source / "bin/python3", to)  # a readable copy of it
        Path(to).chmod(mode | 0o400)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)


def _install_python(inside: Path, python: Interpreter) -> None:
    """Copy the bundled Python, or link the root's where the bundled one would be."""
    shutil.rmtree(inside, ignore_errors=True)
    if python.bundled is not None:
        _copy_tree(python.bundled, inside)
        return
    for name in ("bin/python3", "bin/python", "libexec/supervisor"):
        (inside / name).parent.mkdir(parents=True, exist_ok=True)
        (inside / name).symlink_to(python.program)


def _rounded(size: int) -> int:
    return -(-size // (1 << 20)) * (1 << 20)
