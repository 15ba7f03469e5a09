"""Commands and environments of child processes, from source and from the frozen executable."""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

CHILD_COMMAND = "_child"
_PR_SET_PDEATHSIG = 1


def is_frozen() -> bool:
    """Whether this process runs from the single executable."""
    return bool(getattr(sys, "frozen", False))


def resource_dir() -> Path:
    """The folder of the files that ship with the program."""
    if is_frozen():
        return Path(getattr(sys, "_MEIPASS", ""))
    return Path(__file__).resolve().parent.parent


def own_argv() -> list[str]:
    """The command that starts this program."""
    return [sys.executable] if is_frozen() else [sys.executable, "-m", "appliance"]


def child_argv(module: str) -> list[str]:
    """The command that runs `main(argv)` of a module under `plugins` in a process of its own."""
    return [*own_argv(), CHILD_COMMAND, module]


def run_child_main(module: str, argv: list[str]) -> int:
    """Run `main(argv)` of a module under `plugins`, in the process that `child_argv` starts.

    Raises PluginError if the name is not below `plugins`.
    """
    parts = module.split(".")
    if parts[0] != "plugins" or not all(part.isidentifier() for part in parts):
        from appliance.errors import PluginError

        raise PluginError(f"{module!r} is not the name of a module under plugins")
    return importlib.import_module(module).main(argv)


def child_env() -> dict[str, str]:
    """The environment of our own child processes: without secrets."""
    names = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG")
    env = {name: os.environ[name] for name in names if name in os.environ}
    # PyInstaller: the child uses the folder that its parent has unpacked.
    env |= {name: value for name, value in os.environ.items() if name.startswith("_PYI_")}
    if not is_frozen():
        env["PYTHONPATH"] = str(resource_dir())
    return env


def host_env() -> dict[str, str]:
    """The environment of the host's programs: with the host's library path, not ours."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    original = os.environ.get("LD_LIBRARY_PATH_ORIG" if is_frozen() else "LD_LIBRARY_PATH")
    if original:
        env["LD_LIBRARY_PATH"] = original
    return env


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
