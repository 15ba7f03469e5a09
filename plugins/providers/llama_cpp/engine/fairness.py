"""Turns between owners: who is admitted next, and how a step's prompt tokens are shared out."""

from collections.abc import Callable, Mapping

from plugins.providers.llama_cpp.engine.sequences import Job


class Waiting:
    """Jobs that wait to be admitted, in the order in which each owner's came."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def append(self, job: Job) -> None:
        """The server bounds how many requests are open, and thereby this list."""
        self._jobs.append(job)

    def first(self, running: Mapping[str, int]) -> Job | None:
        """The oldest job of the owner who has the fewest running, None if nobody waits."""
        heads: dict[str, Job] = {}
        for job in self._jobs:
            heads.setdefault(job.owner, job)
        return min(heads.values(), key=lambda job: running.get(job.owner, 0), default=None)

    def take(self, job: Job) -> None:
        """It is admitted, or gone."""
        self._jobs.remove(job)

    def drop(self, unwanted: Callable[[Job], bool]) -> list[Job]:
        """Forget those that nobody waits for any more; returns them."""
        gone = [job for job in self._jobs if unwanted(job)]
        self._jobs = [job for job in self._jobs if job not in gone]
        return gone


def portions(wanted: Mapping[str, int], total: int) -> dict[str, int]:
    """Share out `total` tokens: everybody gets as much, and what some don't need goes to others."""
    granted: dict[str, int] = {}
    for place, owner in enumerate(sorted(wanted, key=lambda each: wanted[each])):
        share = -(-total // (len(wanted) - place))
        granted[owner] = min(wanted[owner], share)
        total -= granted[owner]
    return granted
