"""The real gVisor for tests, and programs that only look like it."""

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
    """The program, from the environment or PATH; the test is skipped where there is none."""
    found = os.environ.get(RUNSC) or shutil.which("runsc")
    if not found:
        pytest.skip(f"GVISOR IS NOT TESTED: there is no runsc; install it, or name it in {RUNSC}")
    return Path(found)


def names(folder: Path) -> set[str]:
    """What is in it."""
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
    """A backend that is not probed yet; `rootfs` names a root file system in `data_dir`."""
    context = plugin_context(python, runtime_dir)
    settings = {"runsc": str(program), "rootfs": rootfs}
    changed = structs.replace(context, settings=settings, data_dir=data_dir or context.data_dir)
    return GVisor(changed, trial_s)


async def _once(python: Path, runtime_dir: Path, program: Path, code: str) -> None:
    """What an ordinary user's backend answers, as JSON: the status and one result."""
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
    asyncio.run(_once(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
