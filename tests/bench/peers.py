"""Peers of the benchmarks: each in an environment of its own under the user's cache folder."""

import os
import subprocess
import sys
from pathlib import Path

_INSTALL_S = 1200


def peer_python(name: str, *packages: str) -> Path:
    """The interpreter of the peer `name`, with these packages installed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    folder = cache / "monkey-coder-bench" / name
    python = folder / "bin" / "python"
    if not python.exists():
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        subprocess.run(["uv", "venv", "-q", "--python", version, str(folder)], check=True)
    install = ["uv", "pip", "install", "-q", "--python", str(python), *packages]
    subprocess.run(install, check=True, timeout=_INSTALL_S)
    return python


def peer_version(python: Path, package: str) -> str:
    """The installed version of one of the peer's packages."""
    program = f"from importlib.metadata import version; print(version({package!r}))"
    asked = subprocess.run(
        [str(python), "-c", program], check=True, capture_output=True, text=True, timeout=60
    )
    return asked.stdout.strip()
