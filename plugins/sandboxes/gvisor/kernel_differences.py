"""Where gVisor's kernel is not what the stage knows from Linux."""

import marshal
import math
import os
import resource
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from appliance.domain.execution import RunRequest, RunUsage
from plugins._shared.stage.job import job

# It knows this limit, but lets no program set it: bundle.py sets it from the beginning.
_FIXED = resource.RLIMIT_MSGQUEUE


def job_for(request: RunRequest, *, counted: bool) -> Iterator[bytes]:
    """The job without what the stage can't set there.

    `counted`: the host keeps an account of the run's processor time, and it is held by that.
    gVisor's kernel counts a thread that waits for a processor as one that runs.
    """
    pieces = job(request, own_user=True, watch_memory=False)
    head: dict[str, Any] = marshal.loads(next(pieces))  # noqa: S302 - made a line above
    left_out = (_FIXED, resource.RLIMIT_CPU) if counted else (_FIXED,)
    head["rlimits"] = [limit for limit in head["rlimits"] if limit[0] not in left_out]
    if counted:
        head["cpu_s"] = math.inf
    yield marshal.dumps(head)
    yield from pieces


def possible(usage: RunUsage, counted_s: float | None) -> RunUsage:
    """With the host's account of the processor time; without one, no more than can have been."""
    most = usage.wall_s * (os.cpu_count() or 1)
    cpu_s = min(usage.cpu_s, most) if counted_s is None else counted_s
    return structs.replace(usage, cpu_s=cpu_s)
