"""Where gVisor's kernel is not what the stage knows from Linux."""

import marshal
import os
import resource
from collections.abc import Iterator
from typing import Any

from msgspec import structs

from appliance.domain.execution import RunRequest, RunUsage
from plugins.inside.job import job
from plugins.inside.rlimits import Rlimit

# It knows this limit, but lets no program set it: bundle.py sets it from the beginning.
_FIXED = resource.RLIMIT_MSGQUEUE


def job_for(request: RunRequest) -> Iterator[bytes]:
    """The job without what the stage can't set there."""
    pieces = job(request, own_user=True, watch_memory=False)
    head: dict[str, Any] = marshal.loads(next(pieces))  # noqa: S302 - made a line above
    head["rlimits"] = [_fitted(*limit) for limit in head["rlimits"] if limit[0] != _FIXED]
    yield marshal.dumps(head)
    yield from pieces


def _fitted(which: int, soft: int, hard: int) -> Rlimit:
    # Its signal comes a little before the time is up by the clocks that the stage reads:
    # the stage is to be the first to end the run, and this limit is for what outruns it.
    return (which, soft + 1, hard + 1) if which == resource.RLIMIT_CPU else (which, soft, hard)


def possible(usage: RunUsage) -> RunUsage:
    """It counts a thread that waits for a processor as one that runs."""
    most = usage.wall_s * (os.cpu_count() or 1)
    return structs.replace(usage, cpu_s=min(usage.cpu_s, most))
