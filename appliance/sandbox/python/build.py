"""Builds the sandbox's Python from the interpreter that runs the product.

What it takes: the real binary, the standard library without its tests and
graphical parts, the shared libraries that are not the C library's own, and
pytest. The result can be moved, and needs nothing but glibc.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from appliance.errors import SetupError
from appliance.processes import host_env
from appliance.sandbox.python import shared_libraries

# Raise it when what is built from the same interpreter changes.
_FORMAT = 1
_COMPILE_S = 300.0
_PACKAGES = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")

_LEFT_OUT = {
    "__pycache__", "__phello__", "dist-packages", "ensurepip", "idlelib", "idle_test", "lib2to3",
    "msilib", "pydoc_data", "site-packages", "sitecustomize.py", "test", "tests", "tkinter",
    "turtle.py", "turtledemo", "EXTERNALLY-MANAGED",
}  # fmt: skip
_LEFT_OUT_STARTS = ("config-", "LICENSE")
# Tests of the interpreter, windows, and libraries under licences that don't travel with ours.
_EXTENSIONS_LEFT_OUT = (
    "_tkinter", "_test", "_ctypes_test", "_xxtest", "xxlimited", "xxsubtype", "nis",
    "readline", "_gdbm", "_dbm",
)  # fmt: skip


def key() -> str:
    """Names what `build` would make here: the same key, the same content."""
    binary = _interpreter().stat()
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES]
    parts = [_FORMAT, sys.version, binary.st_size, binary.st_mtime_ns, *versions]
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return "{}.{}.{}-".format(*sys.version_info[:3]) + digest[:12]


def build(tree: Path) -> None:
    """Make the whole folder at `tree`, which must not exist. Raises SetupError or OSError."""
    (tree / "bin").mkdir(parents=True)
    _copy_interpreter(tree / "bin")
    library = tree / sys.platlibdir / _version_name()
    _copy_library(library)
    shared_libraries.gather(tree)
    _copy_packages(tree)
    _compile(tree, library)
    _open_to_all(tree)


def _interpreter() -> Path:
    base = getattr(sys, "_base_executable", None) or sys.executable
    return Path(base).resolve()


def _version_name() -> str:
    return "python{}.{}".format(*sys.version_info[:2])


def _copy_interpreter(folder: Path) -> None:
    shutil.copyfile(_interpreter(), folder / "python3")
    (folder / "python3").chmod(0o755)
    for name in ("python", _version_name()):
        (folder / name).symlink_to("python3")
    script = folder / "pytest"
    script.write_text(
        "#!/opt/python/bin/python3\n"
        "import sys\n\nimport pytest\n\nsys.exit(pytest.console_main())\n"
    )
    script.chmod(0o755)


def _copy_library(target: Path) -> None:
    variables = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    variables |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    source = Path(sysconfig.get_path("stdlib", vars=variables))
    extensions = Path(sysconfig.get_path("platstdlib", vars=variables), "lib-dynload")
    shutil.copytree(source, target, ignore=_ignored, symlinks=False, dirs_exist_ok=True)
    if extensions.is_dir() and not (target / "lib-dynload").is_dir():
        shutil.copytree(extensions, target / "lib-dynload", ignore=_ignored)


def _ignored(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if _unwanted(Path(folder), name)]


def _unwanted(folder: Path, name: str) -> bool:
    if name in _LEFT_OUT or name.startswith(_LEFT_OUT_STARTS):
        return True
    if folder.name == "lib-dynload" and name.startswith(_EXTENSIONS_LEFT_OUT):
        return True
    return not (folder / name).exists()  # a link to nowhere


def _copy_packages(tree: Path) -> None:
    site = tree / _site_packages(tree)
    site.mkdir(parents=True, exist_ok=True)
    for name in _PACKAGES:
        for file in importlib.metadata.files(name) or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)


def _site_packages(tree: Path) -> Path:
    """Where that interpreter looks for packages; distributions differ."""
    code = "import site, sys; print(sys.prefix); print(*site.getsitepackages(), sep='\\n')"
    prefix, *folders = run_python(tree, ["-I", "-c", code]).splitlines()
    return Path(folders[-1]).relative_to(prefix)


def _compile(tree: Path, library: Path) -> None:
    """Byte code for everything, taken without a look at the source: it never changes."""
    options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    folders = {str(library), str(tree / _site_packages(tree))}
    run_python(tree, ["-I", "-m", "compileall", *options, *sorted(folders)])


def run_python(tree: Path, arguments: Iterable[str]) -> str:
    """What the interpreter in `tree` prints. Raises SetupError with what it says instead."""
    argv = [str(tree / "bin" / "python3"), *arguments]
    env = {name: value for name, value in host_env().items() if name == "PATH"}
    try:
        done = subprocess.run(
            argv, env=env, cwd="/", capture_output=True, text=True,
            timeout=_COMPILE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"the sandbox's Python does not start: {error}") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()
        raise SetupError(f"the sandbox's Python does not work: {said[-1]}")
    return done.stdout


def _open_to_all(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
