"""gVisor for tests, and programs that imitate it."""

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from appliance.domain.execution import RunRequest
from plugins.sandboxes.gvisor.backend import GVisor
from tests.support.sandbox import GENEROUS
from tests.support.sandbox_service import plugin_context

RUNSC = "MONKEY_CODER_TEST_RUNSC"


def runsc() -> Path:
    """The program, from the environment or PATH; the test is skipped if there is none."""
    path = os.environ.get(RUNSC) or shutil.which("runsc")
    if not path:
        pytest.skip(f"needs gvisor: there is no runsc; install it, or name it in {RUNSC}")
    return Path(path)


def entry_names(folder: Path) -> set[str]:
    """Names of the entries of a folder."""
    return {path.name for path in folder.iterdir()}


def gvisor(
    python: Path,
    runtime_dir: Path,
    program: Path | str,
    trial_s: float = 60.0,
    *,
    data_dir: Path | None = None,
    rootfs: str = "",
) -> GVisor:
    """A backend before its probe; `rootfs` names a root file system in `data_dir`."""
    context = plugin_context(python, runtime_dir)
    settings = {"runsc": str(program), "rootfs": rootfs}
    configured = structs.replace(context, settings=settings, data_dir=data_dir or context.data_dir)
    return GVisor(configured, trial_s)


async def _print_one_run(python: Path, runtime_dir: Path, program: Path, code: str) -> None:
    """Print as JSON the status of an ordinary user's backend and the result of one run."""
    backend = gvisor(python, runtime_dir, program)
    try:
        status = await backend.probe()
        answers = [msgspec.to_builtins(status)]
        if status.available:
            request = RunRequest(("python", "-c", code), limits=GENEROUS)
            answers.append(msgspec.to_builtins(await backend.run(request)))
        print(json.dumps(answers))
    finally:
        await backend.close()


if __name__ == "__main__":
    asyncio.run(
        _print_one_run(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    )
