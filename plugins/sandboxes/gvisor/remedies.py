"""What an administrator is told of a sandbox that did not do as it should."""

import contextlib
from pathlib import Path

from appliance.domain.execution import RunResult

_LONGEST = 300


def last(log: bytes, folder: Path) -> str:
    """The last line that the launcher and runsc said; `folder` is the run's."""
    said = log.decode(errors="replace")
    with contextlib.suppress(FileNotFoundError):
        said = (folder / "log").read_text(errors="replace") + said
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else "runsc ended without a word"


def end_of(trial: RunResult) -> str:
    """How a trial ended."""
    lines = trial.stderr.decode(errors="replace").strip().splitlines()
    number = trial.signal if trial.exit_code is None else trial.exit_code
    return lines[-1][:_LONGEST] if lines else f"it ended with {trial.reason} {number}"
