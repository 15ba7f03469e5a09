"""The interface of a sandbox backend."""

from typing import Protocol, runtime_checkable

from appliance.domain.execution import BackendStatus, OutputStream, RunRequest, RunResult


@runtime_checkable
class SandboxBackend(Protocol):
    """Runs untrusted programs in isolation. All methods are called from one event loop, any number
    of them concurrently.
    """

    @property
    def name(self) -> str: ...

    async def probe(self) -> BackendStatus:
        """Run a program and report the isolation that it had, or what is missing."""
        ...

    async def run(self, request: RunRequest) -> RunResult:
        """Run a program. Cancelling the call kills its whole process tree within a second.

        Raises SandboxUnavailable if isolation is impossible, and InvalidInput for an invalid
        path or argv. A failure of the program is not an error: it is in the result.
        """
        ...

    async def close(self) -> None:
        """Kill all runs and remove their files."""
        ...


class RunWatcher(Protocol):
    """Callbacks of a run, called from the event loop. They must return at once and not raise."""

    def started(self) -> None:
        """The program has started."""
        ...

    def output(self, stream: OutputStream, data: bytes) -> None:
        """The program's next output, also beyond the limit of the result."""
        ...


@runtime_checkable
class WatchableBackend(Protocol):
    """A backend that reports on a run while it goes on."""

    async def run_watched(self, request: RunRequest, watcher: RunWatcher) -> RunResult:
        """As `run`, with callbacks. `started` is called only if the program starts."""
        ...


@runtime_checkable
class CheckingBackend(Protocol):
    """A backend that can validate a request before the run is queued."""

    def check(self, request: RunRequest) -> None:
        """Raises InvalidInput as `run` would."""
        ...


@runtime_checkable
class SessionBackend(Protocol):
    """A backend whose runs can have `RunRequest.workspace`: sessions need no more of it."""

    def session_problem(self) -> str:
        """What sessions need and is missing, and what to do; "" if nothing is."""
        ...
