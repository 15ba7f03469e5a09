"""Requests whose prompts are to be built: a queue per owner, served in turn."""

import threading
from collections import OrderedDict, deque

from plugins.providers.llama_cpp.engine.sequences import Job


class PreparationQueue:
    """Thread-safe. The server limits how many requests are open, and thereby this queue."""

    def __init__(self) -> None:
        self._owners: OrderedDict[str, deque[Job]] = OrderedDict()
        self._changed = threading.Condition()

    def put(self, job: Job) -> None:
        with self._changed:
            self._owners.setdefault(job.owner, deque()).append(job)
            self._changed.notify()

    def get(self) -> Job:
        """Wait for a job; each owner's oldest in turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._owners)
            owner, jobs = self._owners.popitem(last=False)
            job = jobs.popleft()
            if jobs:
                self._owners[owner] = jobs
            return job

    def remove(self, job: Job) -> bool:
        """Whether the job was still waiting."""
        with self._changed:
            jobs = self._owners.get(job.owner)
            if jobs is None or job not in jobs:
                return False
            jobs.remove(job)
            if not jobs:
                del self._owners[job.owner]
            return True
