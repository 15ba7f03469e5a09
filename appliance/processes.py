"""Child processes, from source and from the frozen executable alike."""

import ctypes
import importlib
import os
import signal
import sys
from pathlib import Path

CHILD_COMMAND = "_child"
_PR_SET_PDEATHSIG = 1


def frozen() -> bool:
    """Whether this is the single executable."""
    return bool(getattr(sys, "frozen", False))


def resource_dir() -> Path:
    """Where files that travel with the program lie: the project, or the unpacked executable."""
    if frozen():
        return Path(getattr(sys, "_MEIPASS", ""))
    return Path(__file__).resolve().parent.parent


def own_argv() -> list[str]:
    """The command that starts this program again."""
    return [sys.executable] if frozen() else [sys.executable, "-m", "appliance"]


def child_argv(module: str) -> list[str]:
    """The command that runs `main(argv)` of a module under `plugins` in its own process."""
    return [*own_argv(), CHILD_COMMAND, module]


def run_main(module: str, argv: list[str]) -> int:
    """Run `main(argv)` of a module under `plugins`; the other end of child_argv.

    Raises PluginError if it is no such module.
    """
    parts = module.split(".")
    if parts[0] != "plugins" or not all(part.isidentifier() for part in parts):
        from appliance.errors import PluginError

        raise PluginError(f"{module!r} is not a module of a plugin")
    return importlib.import_module(module).main(argv)


def child_env() -> dict[str, str]:
    """The environment for our own child processes: no secrets, only what finds the code."""
    wanted = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "LD_LIBRARY_PATH_ORIG")
    env = {name: os.environ[name] for name in wanted if name in os.environ}
    # The frozen child reuses the folder that its parent unpacked.
    env |= {name: value for name, value in os.environ.items() if name.startswith("_PYI_")}
    if not frozen():
        env["PYTHONPATH"] = str(resource_dir())
    return env


def host_env() -> dict[str, str]:
    """The environment for the host's programs: their own library path, not ours."""
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    env.setdefault("PATH", "/usr/local/bin:/usr/bin:/bin")
    original = os.environ.get("LD_LIBRARY_PATH_ORIG" if frozen() else "LD_LIBRARY_PATH")
    if original:
        env["LD_LIBRARY_PATH"] = original
    return env


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
