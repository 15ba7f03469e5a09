"""Locks the engine's process up from inside, before it reads anything of a model.

A model file is a stranger's input to a large parser written in C++. What takes the
parser over finds no network, no file to write, no program to start and no file of the
box to read but the model itself and the program's own code; its only way out is the
socket to the server, which takes nothing but typed messages from it.
"""

import os
import sys
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from plugins.providers.llama_cpp.confinement import landlock, privileges, seccomp

_SYSTEM = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/etc/localtime", "/usr/share/zoneinfo", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage", "/proc/sys/vm",
)  # fmt: skip
_FOR_GPU = ("/proc", "/sys", "/etc", "/usr", "/opt")
_PYTHON_PLACES = ("stdlib", "platstdlib", "purelib", "platlib")
_PACKAGES = ("appliance", "plugins", "llama_cpp", "msgspec", "jinja2", "markupsafe")


class Walls(Struct, frozen=True):
    """The layers that confine this process, and what of them this machine could not give."""

    layers: tuple[str, ...] = ()
    breaches: tuple[str, ...] = ()


def confine(model: Path, *, gpu: bool) -> Walls:
    """Lock up; afterwards only the model, our libraries and a few system files can be read.

    What the machine can't give is named in the answer and does not stop the others.
    Raises OSError if the model file can't be opened at all.
    """
    opened = os.open(model, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _locked(model, opened, gpu=gpu)
    finally:
        os.close(opened)


def _locked(model: Path, opened: int, *, gpu: bool) -> Walls:
    steps: dict[str, Callable[[], None]] = {
        "no_new_privileges": privileges.no_new_privileges,
        "no_capabilities": lambda: privileges.drop_capabilities(model),
        "landlock": lambda: _landlock(opened, gpu=gpu),
        "rlimits": lambda: privileges.limit(gpu=gpu),
        "seccomp": lambda: seccomp.install(gpu=gpu),
    }
    layers: list[str] = []
    breaches: list[str] = []
    for name, step in steps.items():
        try:
            step()
        except (OSError, ValueError) as error:
            breaches.append(f"{name}: {getattr(error, 'strerror', None) or error}")
        else:
            layers.append(name)
    if gpu:
        breaches.append("the GPU's driver and devices stay within reach")
    return Walls(tuple(layers), tuple(breaches))


def _landlock(model: int, *, gpu: bool) -> None:
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise OSError(f"{threads - 1} other threads run already, which it would not bind")
    allowed: dict[Path | int, int] = {model: landlock.READ}
    allowed |= dict.fromkeys([*map(Path, _SYSTEM), *_own_code()], landlock.READ)
    if gpu:
        allowed |= dict.fromkeys(map(Path, _FOR_GPU), landlock.READ)
        allowed[Path("/dev")] = landlock.DEVICE
    landlock.restrict(allowed)


def _own_code() -> list[Path]:
    """Where Python, our packages and the libraries lie: code that anyone may read."""
    if getattr(sys, "frozen", False):
        # Python's modules are read out of the executable itself when they are needed.
        return [Path(getattr(sys, "_MEIPASS", "")), Path(sys.executable)]
    places = {Path(sysconfig.get_path(name)) for name in _PYTHON_PLACES}
    for name in _PACKAGES:
        spec = find_spec(name)
        places.update(map(Path, (spec and spec.submodule_search_locations) or ()))
    return sorted(places)
