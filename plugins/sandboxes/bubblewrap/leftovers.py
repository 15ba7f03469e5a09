"""What a service that was killed may have left behind: a bwrap cut off in its start.

Killed just after it made its child and before it told it to go on, it leaves that child
waiting for ever. It runs nothing, yet it stays. Where there are control groups it is
ended with its group (see keeper.py).
"""

import contextlib
import os
import signal
from pathlib import Path


def end_leftovers(program: Path) -> None:
    """Kill what runs the copy of bwrap at `program`, which no other service uses.

    To be called before the first run.
    """
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _runs(folder, program):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(folder.name), signal.SIGKILL)


def _runs(process: Path, program: Path) -> bool:
    try:
        return (process / "cmdline").read_bytes().startswith(os.fsencode(program) + b"\0")
    except OSError:  # it ended while we looked
        return False
