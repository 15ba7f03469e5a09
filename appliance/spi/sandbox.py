"""What a sandbox backend implements."""

from typing import Protocol, runtime_checkable

from appliance.domain.execution import BackendStatus, OutputStream, RunRequest, RunResult


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


class RunWatcher(Protocol):
    """Told of a run while it goes on, from the event loop. Must return at once, and not raise."""

    def started(self) -> None:
        """The program begins."""
        ...

    def output(self, stream: OutputStream, data: bytes) -> None:
        """The next bytes that it wrote, however many are kept in the end."""
        ...


@runtime_checkable
class WatchableBackend(Protocol):
    """A backend that can tell of a run as it goes."""

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        """As `run`, telling `watcher`. A run that never began is not told as started."""
        ...


@runtime_checkable
class CheckingBackend(Protocol):
    """A backend that knows what it would refuse before there is a turn for it."""

    def check(self, request: RunRequest) -> None:
        """Raises InvalidInput as `run` would."""
        ...
