"""The sandbox backend: probes by starting a machine, then runs each program in one."""

import asyncio
import logging
from collections.abc import Iterator

from msgspec import structs

from appliance.domain.execution import (
    MIB,
    BackendStatus,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    RunRequest,
    RunResult,
)
from appliance.errors import SandboxUnavailable
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.cgroups.control import Fence
from plugins._shared.guest.results import result
from plugins._shared.guest.run import GuestRun
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import interpreter
from plugins._shared.stage.backend import ProbedBackend
from plugins._shared.stage.job import job
from plugins._shared.stage.shield import patiently
from plugins._shared.stage.unavailable import unavailable
from plugins._shared.user_ids import Identities, identities
from plugins.sandboxes.microvm import acceleration, boot_files, kernel, machine_pool, probe
from plugins.sandboxes.microvm.machine import Machine
from plugins.sandboxes.microvm.machine_pool import Machines
from plugins.sandboxes.microvm.qemu_argv import Accelerator
from plugins.sandboxes.microvm.qemu_confinement import Confinement, confine
from plugins.sandboxes.microvm.qemu_spawner import Starter

_NAME = "microvm"
_UNKNOWN = Isolation(_NAME, IsolationLevel.MICROVM, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=60.0)
_CLOSE_S = 30.0
_SET_UP_S = {Accelerator.KVM: 30.0, Accelerator.EMULATION: 120.0}
_TRIES = 3
_STARVED = (b"Out of memory: Killed", b"Memory cgroup out of memory")
_SHELL = ("sh", "-c", "readlink -f /bin/sh")

log = logging.getLogger(__name__)


class MicroVm(ProbedBackend):
    """A virtual machine for each run, by QEMU."""

    def __init__(self, context: PluginContext) -> None:
        super().__init__(_NAME)
        self._context = context
        self._settings = context.settings
        self._machines: Machines | None = None
        self._files: boot_files.Files | None = None
        self._confinement: Confinement | None = None
        self._fence: Fence | None = None
        self._users = Identities(None)
        self._lack = ""
        self._grouped = False
        self._runs: set[GuestRun] = set()

    async def close(self) -> None:
        self._closed = True
        for run in self._runs:
            run.kill(EndReason.CANCELLED)
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(run.over.wait() for run in self._runs))
        if self._machines is not None:
            await asyncio.to_thread(self._machines.close)
        if self._files is not None:
            self._files.close()
        if self._confinement is not None:
            self._confinement.close()
        if self._fence is not None and not await asyncio.to_thread(self._fence.close):
            log.warning("control groups of machines are left; the next start removes them")
        self._machines = self._files = self._confinement = self._fence = None

    async def _probe(self) -> BackendStatus:
        if self._machines is None:
            self._machines = await self._set_up()
        self._machines.hope_anew()
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNKNOWN)
        if not outcome.ok:
            said = outcome.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxUnavailable(
                f"the guest's Python does not work: {said or outcome.reason.value}"
            )
        isolation, facts = probe.isolation(outcome.stdout, _NAME, self._machines, self._lack)
        self._grouped = facts.grouped
        languages = {"python": facts.python}
        outcome = await self._run(RunRequest(_SHELL, limits=_PROBE_LIMITS), _UNKNOWN)
        if outcome.ok:
            path = outcome.stdout.decode(errors="replace").strip()
            languages["sh"] = path.rpartition("/")[2][:40] or "sh"
        return BackendStatus(_NAME, True, isolation, languages)

    async def _set_up(self) -> Machines:
        """The first way to run machines that starts one. Raises SandboxUnavailable."""
        found = kernel.find(str(self._settings.get("microvm_kernel", "")))
        problem, remedy = acceleration.lack_of_kvm()
        emulate = bool(self._settings.get("microvm_emulation", False))
        if self._confinement is None:
            self._users = identities()
            user = self._users.take()
            self._users.give_back(user)
            self._confinement = await asyncio.to_thread(confine, self._context.runtime_dir, user)
        if problem and not emulate:
            raise unavailable(problem, remedy)
        if self._files is None:
            self._files = await asyncio.to_thread(self._prepare, found)
        if self._fence is None:
            self._fence = Fence()
        given = (self._files, self._confinement, self._fence)
        if not problem:
            try:
                return await self._first(Starter(*given, Accelerator.KVM))
            except SandboxUnavailable as error:
                problem, remedy = acceleration.useless_kvm(error.message)
                if not emulate:
                    raise unavailable(problem, remedy) from error
        self._lack = problem
        return await self._first(Starter(*given, Accelerator.EMULATION))

    def _prepare(self, found: kernel.Kernel) -> boot_files.Files:
        chosen = selection.chosen(self._context)
        base, digest = (chosen.path, chosen.sha256) if chosen else (None, "")
        python = interpreter(chosen, self._context.sandbox_python)
        return boot_files.prepare(
            self._context.data_dir, boot_files.parts(found, python, base, digest)
        )

    async def _first(self, starter: Starter) -> Machines:
        """The machines of this starter, once one has started."""
        offered = Machines(starter)
        user = self._users.take()
        try:
            await offered.keep(machine_pool.shape(self._usual_limits()), user)
        except BaseException:
            await asyncio.to_thread(offered.close)
            raise
        finally:
            self._users.give_back(user)
        return offered

    def _usual_limits(self) -> Limits:
        """What most runs are given; those that ask for more get a machine of their own size."""
        usual = Limits()
        memory = self._settings.get("memory_mib", usual.memory_bytes // MIB)
        cpus = self._settings.get("cpus", usual.cpus)
        return Limits(memory_bytes=int(memory) * MIB, cpus=float(cpus))

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        user = self._users.take()
        try:
            machine, run = await self._played(request, user, watcher)
        finally:
            self._users.give_back(user)
        return result(
            run,
            self._now(isolation),
            failure=lambda: SandboxUnavailable(
                f"the machine ended before the program was started ({machine.last_words})"
            ),
            starved=_starved(machine),
        )

    async def _played(
        self, request: RunRequest, user: int | None, watcher: RunWatcher | None
    ) -> tuple[Machine, GuestRun]:
        """A run that is over; one that never began is tried again, where that may help."""
        tries = 0
        while True:
            offered, machine, run = await self._play_once(request, user, watcher)
            tries += 1
            if not _never_began(machine, run):
                offered.trust(machine)
                return machine, run
            if not offered.distrust(machine) or tries == _TRIES:
                return machine, run

    async def _play_once(
        self, request: RunRequest, user: int | None, watcher: RunWatcher | None
    ) -> tuple[Machines, Machine, GuestRun]:
        offered, machine = await self._machine(request, user)
        run = await self._begin(offered, machine, request, watcher)
        try:
            await run.play(self._job(request))
        except SandboxUnavailable:
            if not run.report.started:
                offered.distrust(machine)
            raise
        finally:
            self._runs.discard(run)
        return offered, machine, run

    def _now(self, isolation: Isolation) -> Isolation:
        """With what machines have come to lack since the probe."""
        lacks = self._machines.degraded if self._machines is not None else ()
        new = [lack for lack in lacks if lack not in isolation.degraded]
        return structs.replace(isolation, degraded=(*isolation.degraded, *new))

    async def _machine(self, request: RunRequest, user: int | None) -> tuple[Machines, Machine]:
        offered = self._machines
        if self._closed or offered is None:
            raise SandboxUnavailable("the sandbox is shut down")
        try:
            return offered, await offered.start(machine_pool.shape(request.limits), user)
        except SandboxUnavailable:
            self._require_open()  # closing ends what is just starting
            raise

    async def _begin(
        self, offered: Machines, machine: Machine, request: RunRequest, watcher: RunWatcher | None
    ) -> GuestRun:
        try:
            await machine.order(machine_pool.orders(request.limits))
            self._require_open()  # it may have been closed while the machine was starting
        except BaseException:
            await patiently(machine.end())
            raise
        seconds = _SET_UP_S[offered.accelerator]
        source, sink = machine.give_port()
        run = GuestRun(machine, source, sink, request, watcher, set_up_s=seconds)
        self._runs.add(run)
        return run

    def _job(self, request: RunRequest) -> Iterator[bytes]:
        return job(request, own_user=True, watch_memory=not self._grouped)


def _starved(machine: Machine) -> bool:
    said = machine.log.value()
    return machine.starved or any(words in said for words in _STARVED)


def _never_began(machine: Machine, run: GuestRun) -> bool:
    """The machine ended by itself, or went mad, before the program was started."""
    ours = run.killed is not None and not run.broken
    return not (run.report.started or run.report.failure or ours or _starved(machine))
