"""Builds `dist/monkey-coder`, the one executable, and smoke-tests it.

    uv run packaging/build.py [--cpu all|native] [--smoke-model FILE] [--no-smoke]

`--cpu all` (the release) compiles llama.cpp once for each generation of x86-64
processors and chooses at run time; `--cpu native` takes the library of the
project's own environment, which is quick to build and runs on this processor only.
"""

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

from glibc import newest_glibc
from locked_source import fetch_locked_source

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
EXECUTABLE = ROOT / "dist" / "monkey-coder"
PORTABLE_CMAKE = (
    "-DLLAVA_BUILD=OFF -DGGML_NATIVE=OFF -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON"
)


def main() -> None:
    """Build, report size and requirements, smoke-test."""
    arguments = parse_arguments()
    environment = BUILD / f"venv-{arguments.cpu}"
    install(environment, portable=arguments.cpu == "all")
    pack_sandbox_python(environment)
    freeze(environment)
    report()
    if not arguments.no_smoke:
        smoke(arguments.smoke_model)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build dist/monkey-coder.")
    parser.add_argument("--cpu", choices=("all", "native"), default="all")
    parser.add_argument("--smoke-model", type=Path, help="GGUF file for the trial run")
    parser.add_argument("--no-smoke", action="store_true", help="build only")
    return parser.parse_args()


def install(environment: Path, *, portable: bool) -> None:
    """The locked dependencies in an environment of their own, with the selected llama.cpp."""
    BUILD.mkdir(exist_ok=True)
    # Rebuild the project itself: uv would reuse a build of an earlier state.
    options = ["--frozen", "--no-default-groups", "--group", "package", "--no-editable"]
    options += ["--reinstall-package", "monkey-coder"]
    options += ["--no-install-package", "llama-cpp-python", "--inexact"]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    run("uv", "sync", "--python", version, *options, UV_PROJECT_ENVIRONMENT=str(environment))
    if portable:
        install_portable_llama(environment)
    else:
        install_native_llama(environment)


def install_portable_llama(environment: Path) -> None:
    """llama.cpp with every CPU variant, compiled once and kept in build/wheels."""
    wheels = BUILD / "wheels"
    source = fetch_locked_source("llama-cpp-python", BUILD / "sources")
    pattern = source.name.removesuffix(".tar.gz") + "-*.whl"
    if not list(wheels.glob(pattern)):
        target = ("--wheel", "--out-dir", str(wheels), str(source))
        run("uv", "build", *target, CMAKE_ARGS=PORTABLE_CMAKE)
    wheel = str(next(wheels.glob(pattern)))
    run("uv", "pip", "install", "--python", str(environment), "--no-deps", wheel)


def install_native_llama(environment: Path) -> None:
    """llama.cpp as in the environment that this script runs in.

    From uv's cache if it is there: online, uv may find the source out of date and compile it again.
    """
    package = f"llama-cpp-python=={importlib.metadata.version('llama-cpp-python')}"
    install = ("uv", "pip", "install", "--python", str(environment), "--no-deps", package)
    cached = subprocess.run([*install, "--offline"], cwd=ROOT, capture_output=True, check=False)
    if cached.returncode != 0:
        run(*install)


def pack_sandbox_python(environment: Path) -> None:
    """The sandbox's own interpreter, as one file that the executable carries."""
    code = (
        "import sys; from pathlib import Path;"
        "from appliance.sandbox.python.runtime import pack_runtime;"
        "pack_runtime(Path(sys.argv[1]))"
    )
    run(str(environment / "bin" / "python"), "-c", code, str(BUILD / "sandbox-python.tar.xz"))


def freeze(environment: Path) -> None:
    """Run PyInstaller."""
    folders = ["--distpath", str(ROOT / "dist"), "--workpath", str(BUILD / "pyinstaller")]
    spec = str(ROOT / "packaging" / "monkey-coder.spec")
    run(str(environment / "bin" / "pyinstaller"), "--noconfirm", "--log-level=WARN", *folders, spec)


def report() -> None:
    """The executable's size, and the oldest glibc that it runs on."""
    size = EXECUTABLE.stat().st_size / 1e6
    needed = newest_glibc(BUILD / "pyinstaller")
    print(f"{EXECUTABLE.relative_to(ROOT)}: {size:.1f} MB, needs glibc {needed} or newer")


def smoke(model: Path | None) -> None:
    """Run the executable in an almost empty root file system."""
    script = ROOT / "packaging" / "smoke.py"
    options = ["--model", str(model)] if model else []
    run(sys.executable, str(script), str(EXECUTABLE), *options)


def run(*command: str, **environ: str) -> None:
    """Run a command of the build; its failure ends the build."""
    text = " ".join(Path(word).name if word.startswith("/") else word for word in command)
    print(f"build: {text}", flush=True)
    if shutil.which(command[0]) is None:
        sys.exit(f"build: {command[0]} is not installed")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environ,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"build: failed with exit status {done.returncode}: {text}")


if __name__ == "__main__":
    main()
