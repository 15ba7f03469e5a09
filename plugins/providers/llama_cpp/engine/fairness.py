"""Fairness between owners: which job is admitted next, and who gets a step's prefill tokens."""

from collections.abc import Callable, Mapping

from plugins.providers.llama_cpp.engine.sequences import Job


class JobQueue:
    """Jobs that wait to be admitted. The server limits how many there are."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def append(self, job: Job) -> None:
        self._jobs.append(job)

    def next_job(self, running: Mapping[str, int]) -> Job | None:
        """The oldest job of the owner with the fewest running answers; None if none waits."""
        oldest: dict[str, Job] = {}
        for job in self._jobs:
            oldest.setdefault(job.owner, job)
        return min(oldest.values(), key=lambda job: running.get(job.owner, 0), default=None)

    def remove(self, job: Job) -> None:
        self._jobs.remove(job)

    def remove_matching(self, matches: Callable[[Job], bool]) -> list[Job]:
        """Returns the jobs that were removed."""
        removed = [job for job in self._jobs if matches(job)]
        self._jobs = [job for job in self._jobs if job not in removed]
        return removed


def divide_tokens(demands: Mapping[str, int], total: int) -> dict[str, int]:
    """Max-min fair division: equal shares, and what an owner does not need goes to the others."""
    shares: dict[str, int] = {}
    for at, owner in enumerate(sorted(demands, key=lambda each: demands[each])):
        equal = -(-total // (len(demands) - at))
        shares[owner] = min(demands[owner], equal)
        total -= shares[owner]
    return shares
