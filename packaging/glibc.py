"""Finds the oldest glibc that a build runs on."""

import re
import subprocess
from pathlib import Path

_VERSION = re.compile(r"GLIBC_(\d+)\.(\d+)")


def newest_glibc(build_folder: Path) -> str:
    """The newest glibc version that any collected library asks for, such as "2.36".

    PyInstaller's table of contents names each file that went into the executable.
    """
    versions = {(2, 0)}
    for source in _collected_libraries(build_folder):
        symbols = subprocess.run(
            ["objdump", "-T", source], capture_output=True, text=True, check=False
        ).stdout
        versions |= {(int(major), int(minor)) for major, minor in _VERSION.findall(symbols)}
    major, minor = max(versions)
    return f"{major}.{minor}"


def _collected_libraries(build_folder: Path) -> list[str]:
    contents = "".join(path.read_text() for path in build_folder.rglob("Analysis-*.toc"))
    return sorted(set(re.findall(r"'(/[^']+\.so[^']*)'", contents)))
