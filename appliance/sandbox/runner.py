"""Runs untrusted code through the backend that this machine offers."""

import asyncio
from collections.abc import Mapping, Sequence

import structlog

from appliance import telemetry
from appliance.domain.execution import (
    MIB,
    BackendStatus,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.errors import SandboxUnavailable
from appliance.settings import SandboxSettings
from appliance.spi.sandbox import SandboxBackend

_KIB = 1024
_PROBE_S = 180.0
_LAST_PAUSE_S = 600.0
# From the weakest wall to the strongest.
_LEVELS = (IsolationLevel.NAMESPACES, IsolationLevel.GVISOR, IsolationLevel.MICROVM)

log = structlog.get_logger()


class SandboxRunner:
    """One for the whole box: it bounds how many runs there are at a time.

    Code is never run unconfined: where no backend is good enough, each run fails
    with SandboxUnavailable and the reason.
    """

    def __init__(
        self,
        backends: Mapping[str, SandboxBackend],
        settings: SandboxSettings,
        first_pause_s: float = 15.0,
    ) -> None:
        self._first_pause_s = first_pause_s
        self._backends = dict(backends)
        self._settings = settings
        self._backend: SandboxBackend | None = None
        self._status = BackendStatus("none", False, problem="the sandbox was not started")
        self._slots = asyncio.Semaphore(settings.parallel_runs)
        self._retrying: asyncio.Task[None] | None = None

    @property
    def status(self) -> BackendStatus:
        """Of the chosen backend; or why there is none."""
        return self._status

    async def start(self) -> None:
        """Probe the backends and choose one. Never raises: the outcome is in `status`.

        Where none is good enough they are probed again from time to time: what was in
        the way may have been a busy machine or something that an administrator repairs.
        """
        wanted = self._settings.backend
        if wanted != "auto" and wanted not in self._backends:
            known = ", ".join(sorted(self._backends)) or "none"
            self._status = _none(
                f"the setting sandbox.backend names {wanted!r}, which is not installed",
                f"set it to auto or to one of: {known}",
            )
            return
        names = sorted(self._backends) if wanted == "auto" else [wanted]
        await self._look(names)
        if self._backend is None and names:
            self._retrying = asyncio.create_task(self._look_again(names))

    def limits(self) -> Limits:
        """What the settings allow one run."""
        given = self._settings
        return Limits(
            wall_s=given.wall_s,
            cpu_s=given.cpu_s,
            memory_bytes=given.memory_mib * MIB,
            processes=given.processes,
            workspace_bytes=given.workspace_mib * MIB,
            tmp_bytes=given.tmp_mib * MIB,
            output_kept_bytes=given.output_kept_kib * _KIB,
            output_killed_bytes=given.output_killed_kib * _KIB,
        )

    async def run(self, request: RunRequest) -> RunResult:
        """One run, waiting for its turn.

        Raises SandboxUnavailable with the reason, and InvalidInput for a bad request.
        """
        if self._backend is None:
            reason = ". ".join(filter(None, (self._status.problem, self._status.remedy)))
            raise SandboxUnavailable(f"code can't be run on this machine: {reason}")
        async with self._slots:
            result = await self._backend.run(request)
        telemetry.observe_sandbox_run(result.reason)
        return result

    async def close(self) -> None:
        """End every run and let go of the backends."""
        if self._retrying is not None:
            self._retrying.cancel()
            await asyncio.wait({self._retrying})
        self._backend = None
        self._status = _none("the sandbox is shut down", "")
        for backend in self._backends.values():
            await backend.close()

    async def _look(self, names: Sequence[str]) -> None:
        probed = [await self._probe(name) for name in names]
        self._status = self._choose(probed)
        self._backend = self._backends[self._status.name] if self._status.available else None

    async def _look_again(self, names: Sequence[str]) -> None:
        pause = self._first_pause_s
        while self._backend is None:
            await asyncio.sleep(pause)
            await self._look(names)
            pause = min(2 * pause, _LAST_PAUSE_S)

    async def _probe(self, name: str) -> BackendStatus:
        try:
            async with asyncio.timeout(_PROBE_S):
                status = await self._backends[name].probe()
        except TimeoutError:
            status = BackendStatus(name, False, problem=f"no answer within {_PROBE_S:.0f} s")
        except Exception:
            # A plugin's own fault must not keep the box from starting.
            log.exception("sandbox.probe_failed", backend=name)
            status = BackendStatus(name, False, problem=f"the backend {name} failed; see the log")
        log.info("sandbox.probed", backend=name, available=status.available, problem=status.problem)
        return status

    def _choose(self, probed: list[BackendStatus]) -> BackendStatus:
        works = [status for status in probed if status.available and status.isolation]
        if not works:
            return probed[0] if len(probed) == 1 else _no_backend(probed)
        best = max(works, key=_strength)
        required = self._settings.require
        if required and _strength(best) < _LEVELS.index(IsolationLevel(required)):
            return _none(
                f"the setting sandbox.require asks for {required}; "
                f"this machine offers {_LEVELS[_strength(best)]}",
                "install a stronger backend, or lower that setting",
            )
        return best


def _strength(status: BackendStatus) -> int:
    return _LEVELS.index(status.isolation.level) if status.isolation else -1


def _no_backend(probed: list[BackendStatus]) -> BackendStatus:
    problems = "; ".join(f"{status.name}: {status.problem}" for status in probed)
    remedies = "; ".join(filter(None, (status.remedy for status in probed)))
    return _none(problems or "no sandbox backend is installed", remedies)


def _none(problem: str, remedy: str) -> BackendStatus:
    return BackendStatus("none", False, problem=problem, remedy=remedy)
