"""Where gVisor's kernel differs from the Linux that the init process expects."""

import marshal
import math
import os
import resource
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from appliance.domain.execution import RunRequest, RunUsage
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
    fields["rlimits"] = [limit for limit in fields["rlimits"] if limit[0] not in omitted]
    if cpu_accounted:
        fields["cpu_s"] = math.inf
    yield marshal.dumps(fields)
    yield from pieces


def correct_usage(usage: RunUsage, accounted_s: float | None) -> RunUsage:
    """Replace gVisor's CPU time by the host's; without that, cap it at what is possible."""
    max_cpu_s = usage.wall_s * (os.cpu_count() or 1)
    cpu_s = min(usage.cpu_s, max_cpu_s) if accounted_s is None else accounted_s
    return structs.replace(usage, cpu_s=cpu_s)
