"""Encodes a job for the init process (see init.py), and the environment of each program."""

import marshal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import structs

from appliance.domain.execution import BuildStep, Limits, RunRequest, WorkspaceTransfer
from appliance.spi import workspace_archive
from plugins._shared.stage import bytecode, paths
from plugins._shared.stage.rlimits import program_rlimits

_TMP = "/tmp"  # noqa: S108 - the sandbox's own
TOOLCHAINS = "/opt/toolchains"

CHANGES = "/.workspace-changes"
"""Where the upper folder of an overlay on the base is seen, read-only."""

_PIECE_BYTES = 131072
_PYTHON_PATH = "/opt/python/bin"
# Go's packages keep their programs in folders of their own.
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/go/bin:/usr/lib/go/bin"

ENVIRONMENT = {
    "PATH": f"{_PYTHON_PATH}:{_SYSTEM_PATH}",
    "HOME": _TMP,
    "LANG": "C.UTF-8",
    "TMPDIR": _TMP,
    # What a program has written is then not lost if it is killed at a limit.
    "PYTHONUNBUFFERED": "1",
}


def program_environment(toolchains: int) -> dict[str, str]:
    """The default environment with this many of the administrator's toolchains on PATH.

    They precede the system's programs.
    """
    folders = [f"{TOOLCHAINS}/{number}/bin" for number in range(toolchains)]
    return ENVIRONMENT | {"PATH": ":".join([_PYTHON_PATH, *folders, _SYSTEM_PATH])}


def encode_job(
    request: RunRequest, *, own_user: bool, toolchains: int = 0, watch_memory: bool = True
) -> Iterator[bytes]:
    """The job in pieces, made one by one: the request, the archive if there is one, each file.

    With `own_user` nothing else has the run's user id. With `watch_memory` the init process
    limits the memory of the whole run, since no control group does.
    """
    yield marshal.dumps(_fields(request, own_user, toolchains, watch_memory))
    if request.workspace is not None:
        yield from _archive_pieces(request.workspace)
    for file in request.files:
        yield marshal.dumps((file.path, file.executable, file.content))


def _archive_pieces(transfer: WorkspaceTransfer) -> Iterator[bytes]:
    remaining = transfer.source_bytes
    if remaining:
        with Path(transfer.source).open("rb") as file:
            while remaining and (data := file.read(min(_PIECE_BYTES, remaining))):
                remaining -= len(data)
                yield data
    yield workspace_archive.frame(b"Z")


def _fields(
    request: RunRequest, own_user: bool, toolchains: int, watch_memory: bool
) -> dict[str, Any]:
    limits = request.limits
    return {
        "argv": list(request.argv),
        "build": request.build and _build_fields(request.build, limits, own_user=own_user),
        "env": program_environment(toolchains) | request.env,
        "files": len(request.files),
        "rlimits": program_rlimits(limits, own_user=own_user),
        "landlock": bytecode.module_code("plugins._shared.landlock"),
        "cpu_s": limits.cpu_s,
        "memory_bytes": limits.memory_bytes if watch_memory else 0,
        "patterns": [paths.glob_to_regex(pattern) for pattern in request.artifacts],
        "artifact_files": limits.artifact_files,
        "artifact_bytes": limits.artifact_bytes,
        "archive": request.workspace is not None,
        "keep_workspace": bool(request.workspace and request.workspace.target),
        "replace": bool(request.workspace or request.base),
        "workspace_files": limits.workspace_files,
        "changes": CHANGES if request.base else "",
    }


def _build_fields(build: BuildStep, limits: Limits, *, own_user: bool) -> dict[str, Any]:
    """What takes the place of the job's own fields while the build step runs."""
    limits = structs.replace(limits, cpu_s=build.cpu_s)
    return {
        "argv": list(build.argv),
        "rlimits": program_rlimits(limits, own_user=own_user),
        "cpu_s": build.cpu_s,
    }
