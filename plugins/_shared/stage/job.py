"""What the stage is told to do, as the bytes that it reads (see stage.py)."""

import marshal
from collections.abc import Iterator
from typing import Any

from appliance.domain.execution import RunRequest
from plugins._shared.stage import bytecode, paths
from plugins._shared.stage.environment import environment
from plugins._shared.stage.rlimits import rlimits


def job(
    request: RunRequest, *, own_user: bool, toolchains: int = 0, watch_memory: bool = True
) -> Iterator[bytes]:
    """The job in pieces, one per file, made as they are asked for.

    `watch_memory`: nothing but the stage counts the memory of the run as a whole.
    """
    head = _head(request, own_user, toolchains)
    yield marshal.dumps(head | {"memory_bytes": request.limits.memory_bytes if watch_memory else 0})
    for file in request.files:
        yield marshal.dumps((file.path, file.executable, file.content))


def _head(request: RunRequest, own_user: bool, toolchains: int) -> dict[str, Any]:
    limits = request.limits
    return {
        "argv": list(request.argv),
        "env": environment(toolchains) | request.env,
        "files": len(request.files),
        "rlimits": rlimits(limits, own_user=own_user),
        "landlock": bytecode.code("landlock"),
        "cpu_s": limits.cpu_s,
        "patterns": [paths.regex(pattern) for pattern in request.artifacts],
        "artifact_files": limits.artifact_files,
        "artifact_bytes": limits.artifact_bytes,
    }
