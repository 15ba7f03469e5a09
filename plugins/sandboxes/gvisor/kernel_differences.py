"""Where gVisor's kernel differs from the Linux that the init process expects."""

import marshal
import math
import os
import resource
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from appliance.domain.execution import RunRequest, RunResult, RunUsage
from plugins._shared.stage.job import encode_job

# gVisor knows this limit, but lets no program set it: config.json does (see bundle.py).
_PRESET = resource.RLIMIT_MSGQUEUE


def encode_gvisor_job(request: RunRequest, *, cpu_accounted: bool) -> Iterator[bytes]:
    """The job without the limits that can't be set inside.

    gVisor's kernel counts a thread that waits for a processor as running. With `cpu_accounted` the
    server enforces the CPU limit by the host's accounting instead.
    """
    pieces = encode_job(request, own_user=True, watch_memory=False)
    fields: dict[str, Any] = marshal.loads(next(pieces))  # noqa: S302 - made a line above
    omitted = (_PRESET, resource.RLIMIT_CPU) if cpu_accounted else (_PRESET,)
    for step in filter(None, (fields, fields["build"])):
        step["rlimits"] = [limit for limit in step["rlimits"] if limit[0] not in omitted]
        if cpu_accounted:
            step["cpu_s"] = math.inf
    yield marshal.dumps(fields)
    yield from pieces


def correct_usage(usage: RunUsage, accounted_s: float | None) -> RunUsage:
    """Replace gVisor's CPU time by the host's; without that, cap it at what is possible."""
    max_cpu_s = usage.wall_s * (os.cpu_count() or 1)
    cpu_s = min(usage.cpu_s, max_cpu_s) if accounted_s is None else accounted_s
    return structs.replace(usage, cpu_s=cpu_s)


def correct_result(
    result: RunResult, accounted_s: float | None, build_accounted_s: float | None
) -> RunResult:
    """Correct the usage of the run and of its build step, as `correct_usage` does."""
    build = result.build
    if build is None:
        return structs.replace(result, usage=correct_usage(result.usage, accounted_s))
    build = structs.replace(build, usage=correct_usage(build.usage, build_accounted_s))
    usage = correct_usage(result.usage, accounted_s) if build.ok else build.usage
    return structs.replace(result, usage=usage, build=build)
