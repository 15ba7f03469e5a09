"""Builds the sandbox's Python from the interpreter that runs this program.

Copies the binary, the standard library without tests and graphical parts, the shared libraries
except those of the C library, and pytest. The result is relocatable and needs nothing but glibc.
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

# Increase it when the build changes for the same interpreter.
_FORMAT = 1
_COMPILE_S = 300.0
_PACKAGES = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")

_EXCLUDED = {
    "__pycache__", "__phello__", "dist-packages", "ensurepip", "idlelib", "idle_test", "lib2to3",
    "msilib", "pydoc_data", "site-packages", "sitecustomize.py", "test", "tests", "tkinter",
    "turtle.py", "turtledemo", "EXTERNALLY-MANAGED",
}  # fmt: skip
_EXCLUDED_PREFIXES = ("config-", "LICENSE")
# Tests of the interpreter, graphical parts, and libraries whose license forbids bundling.
_EXCLUDED_EXTENSIONS = (
    "_tkinter", "_test", "_ctypes_test", "_xxtest", "xxlimited", "xxsubtype", "nis",
    "readline", "_gdbm", "_dbm",
)  # fmt: skip


def runtime_key() -> str:
    """Identifies the result of `build_runtime` here: equal keys mean equal content."""
    binary = _interpreter().stat()
    versions = [f"{name}=={importlib.metadata.version(name)}" for name in _PACKAGES]
    parts = [_FORMAT, sys.version, binary.st_size, binary.st_mtime_ns, *versions]
    digest = hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()
    return "{}.{}.{}-".format(*sys.version_info[:3]) + digest[:12]


def build_runtime(tree: Path) -> None:
    """Create the folder `tree`, which must not exist. Raises SetupError or OSError."""
    (tree / "bin").mkdir(parents=True)
    _copy_interpreter(tree / "bin")
    library = tree / sys.platlibdir / _version_name()
    _copy_standard_library(library)
    shared_libraries.copy_shared_libraries(tree)
    _copy_packages(tree)
    _compile(tree, library)
    _make_readable(tree)


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


def _copy_standard_library(target: Path) -> None:
    variables = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    variables |= {"installed_base": sys.base_prefix, "installed_platbase": sys.base_exec_prefix}
    source = Path(sysconfig.get_path("stdlib", vars=variables))
    extensions = Path(sysconfig.get_path("platstdlib", vars=variables), "lib-dynload")
    shutil.copytree(source, target, ignore=_ignore, symlinks=False, dirs_exist_ok=True)
    if extensions.is_dir() and not (target / "lib-dynload").is_dir():
        shutil.copytree(extensions, target / "lib-dynload", ignore=_ignore)


def _ignore(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if _is_excluded(Path(folder), name)]


def _is_excluded(folder: Path, name: str) -> bool:
    if name in _EXCLUDED or name.startswith(_EXCLUDED_PREFIXES):
        return True
    if folder.name == "lib-dynload" and name.startswith(_EXCLUDED_EXTENSIONS):
        return True
    return not (folder / name).exists()  # a broken link


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
    """The folder where that interpreter looks for packages, which differs by distribution."""
    code = "import site, sys; print(sys.prefix); print(*site.getsitepackages(), sep='\\n')"
    prefix, *folders = run_python(tree, ["-I", "-c", code]).splitlines()
    return Path(folders[-1]).relative_to(prefix)


def _compile(tree: Path, library: Path) -> None:
    """Compile everything to byte code that is never checked against the source."""
    options = ["-q", "-j", "0", "--invalidation-mode", "unchecked-hash"]
    folders = {str(library), str(tree / _site_packages(tree))}
    run_python(tree, ["-I", "-m", "compileall", *options, *sorted(folders)])


def run_python(tree: Path, arguments: Iterable[str]) -> str:
    """Output of the interpreter in `tree`. Raises SetupError with its error message."""
    argv = [str(tree / "bin" / "python3"), *arguments]
    env = {name: value for name, value in host_env().items() if name == "PATH"}
    try:
        process = subprocess.run(
            argv, env=env, cwd="/", capture_output=True, text=True,
            timeout=_COMPILE_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"the sandbox's Python does not start: {error}") from error
    if process.returncode:
        output = process.stderr.strip() or process.stdout.strip() or "no error output"
        raise SetupError(f"the sandbox's Python does not work: {output.splitlines()[-1]}")
    return process.stdout


def _make_readable(tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        Path(folder).chmod(0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
