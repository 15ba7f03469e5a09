"""A sandbox backend whose runs of `true` end when the test says so."""

import asyncio

from appliance.domain.execution import (
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    RunRequest,
    RunResult,
    RunUsage,
)

ISOLATION = Isolation("test", IsolationLevel.NAMESPACES, ())


class WaitingBackend:
    """Stands for a real one: its runs end when the test says so."""

    name = "test"

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.running = 0
        self.most = 0
        self.requests: list[RunRequest] = []

    async def probe(self) -> BackendStatus:
        return BackendStatus("test", True, ISOLATION, {"python": "3.11"})

    async def run(self, request: RunRequest) -> RunResult:
        if request.argv[0] == "true":
            self.requests.append(request)
            self.running += 1
            self.most = max(self.most, self.running)
            await self.go.wait()
            self.running -= 1
        usage = RunUsage(0.1, 0.1, 1)
        return RunResult(EndReason.EXITED, 0, None, b"", b"", False, usage, ISOLATION)

    async def close(self) -> None:
        self.go.set()
