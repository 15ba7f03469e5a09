"""What the stage is told to do, as the bytes that it reads (see stage.py)."""

import marshal
from collections.abc import Iterator
from typing import Any

from appliance.domain.execution import RunRequest
from plugins.sandboxes.bubblewrap import paths
from plugins.sandboxes.bubblewrap.command import ENVIRONMENT
from plugins.sandboxes.bubblewrap.rlimits import rlimits


def job(request: RunRequest, *, own_user: bool) -> Iterator[bytes]:
    """The job in pieces, one per file, made as they are asked for."""
    yield marshal.dumps(_head(request, own_user=own_user))
    for file in request.files:
        yield marshal.dumps((file.path, file.executable, file.content))


def _head(request: RunRequest, *, own_user: bool) -> dict[str, Any]:
    limits = request.limits
    return {
        "argv": list(request.argv),
        "env": ENVIRONMENT | request.env,
        "files": len(request.files),
        "rlimits": rlimits(limits, own_user=own_user),
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes,
        "patterns": [paths.regex(pattern) for pattern in request.artifacts],
        "artifact_files": limits.artifact_files,
        "artifact_bytes": limits.artifact_bytes,
    }
