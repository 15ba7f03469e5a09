"""What a sandbox backend implements."""

from typing import Protocol

from appliance.domain.execution import BackendStatus, RunRequest, RunResult


class SandboxBackend(Protocol):
    """Runs untrusted programs, confined. One event loop, any number of runs at a time."""

    @property
    def name(self) -> str: ...

    async def probe(self) -> BackendStatus:
        """Run something for real and say what isolation it got, or what is missing."""
        ...

    async def run(self, request: RunRequest) -> RunResult:
        """One run. Cancelling the call kills the whole process tree within a second.

        Raises SandboxUnavailable where it can't confine, and InvalidInput for a bad
        path or argv. What the program does is never an error: it is in the result.
        """
        ...

    async def close(self) -> None:
        """Kill every run still alive and remove what is left of it."""
        ...
