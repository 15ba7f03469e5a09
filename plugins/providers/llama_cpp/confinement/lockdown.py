"""Confines the engine's process from inside, before it reads anything of a model.

A model file is untrusted input to a large parser written in C++. Code that takes over the parser
has no network, can write no file, start no program, and read no file but the model, system
libraries and the product's own code. The socket to the server remains, on which the server
accepts typed messages only.
"""

import os
import sys
import sysconfig
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from msgspec import Struct

from appliance.domain.split_models import model_files
from plugins._shared import landlock, linux
from plugins.providers.llama_cpp.confinement import privileges, seccomp

_SYSTEM_PATHS = (
    "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
    "/etc/localtime", "/usr/share/zoneinfo", "/proc/self", "/proc/cpuinfo", "/proc/meminfo",
    "/sys/devices/system/cpu", "/sys/devices/system/node", "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage", "/proc/sys/vm",
)  # fmt: skip
_GPU_PATHS = ("/proc", "/sys", "/etc", "/usr", "/opt")
_PYTHON_PATHS = ("stdlib", "platstdlib", "purelib", "platlib")
_PACKAGES = ("appliance", "plugins", "llama_cpp", "msgspec", "jinja2", "markupsafe")


class Confinement(Struct, frozen=True):
    """The layers that confine this process, and those that the machine lacks, with the reason."""

    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def confine(model: Path, *, gpu: bool) -> Confinement:
    """Confine this process for good to the model, system libraries and the product's code.

    A layer that the machine lacks is reported and does not stop the others.
    `model` is the model's first or only file. Raises OSError if a file can't be opened.
    """
    files = model_files(model)
    with ExitStack() as stack:
        model_fds: list[int] = []
        for file in files:
            model_fds.append(os.open(file, os.O_RDONLY | os.O_CLOEXEC))
            stack.callback(os.close, model_fds[-1])
        return _apply_layers(files, model_fds, gpu=gpu)


def confine_to_code() -> Confinement:
    """Confine this process for good to system libraries and the product's code; see `confine`."""
    return _apply_layers((), (), gpu=False)


def _apply_layers(files: Sequence[Path], model_fds: Sequence[int], *, gpu: bool) -> Confinement:
    steps: dict[str, Callable[[], None]] = {
        "no_new_privileges": linux.set_no_new_privileges,
        "no_capabilities": lambda: privileges.drop_capabilities(files),
        "landlock": lambda: _restrict_files(model_fds, gpu=gpu),
        "rlimits": lambda: privileges.set_limits(gpu=gpu),
        "seccomp": lambda: seccomp.install_filter(gpu=gpu),
    }
    layers: list[str] = []
    missing: list[str] = []
    for name, step in steps.items():
        try:
            step()
        except (OSError, ValueError) as error:
            missing.append(f"{name}: {getattr(error, 'strerror', None) or error}")
        else:
            layers.append(name)
    if gpu:
        missing.append("the GPU's driver and devices stay accessible")
    return Confinement(tuple(layers), tuple(missing))


def _restrict_files(model_fds: Sequence[int], *, gpu: bool) -> None:
    """Landlock binds the calling thread only, so it must be the only one. Raises OSError."""
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads > 1:
        raise OSError(f"{threads - 1} other threads run already and would not be restricted")
    allowed: dict[Path | int, int] = dict.fromkeys(model_fds, landlock.READ)
    allowed |= dict.fromkeys([*map(Path, _SYSTEM_PATHS), *_code_paths()], landlock.READ)
    if gpu:
        allowed |= dict.fromkeys(map(Path, _GPU_PATHS), landlock.READ)
        allowed[Path("/dev")] = landlock.USE_DEVICES
    if not landlock.restrict(allowed):
        raise OSError("this kernel has no Landlock, or it is turned off")


def _code_paths() -> list[Path]:
    """Where Python, the product's packages and libraries lie."""
    if getattr(sys, "frozen", False):
        # Python's modules are read from the executable itself on demand.
        return [Path(getattr(sys, "_MEIPASS", "")), Path(sys.executable)]
    paths = {Path(sysconfig.get_path(name)) for name in _PYTHON_PATHS}
    for name in _PACKAGES:
        spec = find_spec(name)
        paths.update(map(Path, (spec and spec.submodule_search_locations) or ()))
    return sorted(paths)
