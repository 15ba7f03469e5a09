"""The microVM sandbox backend: probes by starting a machine, then runs each program in one."""

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
from appliance.spi.cancellation import run_deferring_cancellation
from appliance.spi.registry import PluginContext
from appliance.spi.sandbox import RunWatcher
from plugins._shared.cgroups.controller import CgroupController
from plugins._shared.guest.results import build_result
from plugins._shared.guest.run import GuestRun
from plugins._shared.rootfs import selection
from plugins._shared.rootfs.python import choose_interpreter
from plugins._shared.stage.backend import ProbedBackend
from plugins._shared.stage.job import encode_job
from plugins._shared.user_ids import UserIdAllocator, create_allocator
from plugins.sandboxes.microvm import boot_files, kernel, machine_factory, probe
from plugins.sandboxes.microvm.machine import GuestMachine
from plugins.sandboxes.microvm.machine_factory import MachineFactory
from plugins.sandboxes.microvm.qemu_argv import Accelerator
from plugins.sandboxes.microvm.qemu_confinement import QemuConfinement, find_confinement
from plugins.sandboxes.microvm.qemu_spawner import QemuSpawner

_NAME = "microvm"
_UNPROVEN = Isolation(_NAME, IsolationLevel.MICROVM, ())
_PROBE_LIMITS = Limits(wall_s=60.0, cpu_s=60.0)
_CLOSE_S = 30.0
_SETUP_S = {Accelerator.KVM: 30.0, Accelerator.EMULATION: 120.0}
_MAX_ATTEMPTS = 3
_OOM_MESSAGES = (b"Out of memory: Killed", b"Memory cgroup out of memory")
_SHELL_NAME = ("sh", "-c", "readlink -f /bin/sh")

log = logging.getLogger(__name__)


class MicroVm(ProbedBackend):
    """A virtual machine for each run, by QEMU."""

    def __init__(self, context: PluginContext) -> None:
        super().__init__(_NAME)
        self._context = context
        self._settings = context.settings
        self._machines: MachineFactory | None = None
        self._files: boot_files.BootFiles | None = None
        self._confinement: QemuConfinement | None = None
        self._cgroups: CgroupController | None = None
        self._user_ids = UserIdAllocator(None)
        self._kvm_lack = ""
        self._guest_has_cgroup = False
        self._runs: set[GuestRun] = set()

    async def close(self) -> None:
        self._closed = True
        for run in self._runs:
            run.kill(EndReason.CANCELLED)
        async with asyncio.timeout(_CLOSE_S):
            await asyncio.gather(*(run.finished.wait() for run in self._runs))
        if self._machines is not None:
            await asyncio.to_thread(self._machines.close)
        if self._files is not None:
            self._files.close()
        if self._confinement is not None:
            self._confinement.close()
        if self._cgroups is not None and not await asyncio.to_thread(self._cgroups.close):
            log.warning("control groups of machines are left; the next start removes them")
        self._machines = self._files = self._confinement = self._cgroups = None

    async def _probe(self) -> BackendStatus:
        if self._machines is None:
            self._machines = await self._set_up()
        self._machines.retry_snapshot()
        request = RunRequest(("python", "-c", probe.FACTS), limits=_PROBE_LIMITS)
        outcome = await self._run(request, _UNPROVEN)
        if not outcome.ok:
            error = outcome.stderr.decode(errors="replace").strip()[-300:]
            raise SandboxUnavailable(
                f"the guest's Python does not work: {error or outcome.reason.value}"
            )
        isolation, facts = probe.proven_isolation(
            outcome.stdout, _NAME, self._machines, self._kvm_lack
        )
        self._guest_has_cgroup = facts.has_cgroup
        languages = {"python": facts.python}
        outcome = await self._run(RunRequest(_SHELL_NAME, limits=_PROBE_LIMITS), _UNPROVEN)
        if outcome.ok:
            path = outcome.stdout.decode(errors="replace").strip()
            languages["sh"] = path.rpartition("/")[2][:40] or "sh"
        return BackendStatus(_NAME, True, isolation, languages)

    async def _set_up(self) -> MachineFactory:
        """Machines with KVM, else emulated if the settings allow it. Raises SandboxUnavailable."""
        guest_kernel = kernel.find_kernel(str(self._settings.get("microvm_kernel", "")))
        problem, remedy = probe.kvm_problem()
        emulation = bool(self._settings.get("microvm_emulation", False))
        if self._confinement is None:
            self._user_ids = create_allocator()
            user = self._user_ids.acquire()
            self._user_ids.release(user)
            self._confinement = await asyncio.to_thread(
                find_confinement, self._context.runtime_dir, user
            )
        if problem and not emulation:
            raise SandboxUnavailable.with_remedy(problem, remedy)
        if self._files is None:
            self._files = await asyncio.to_thread(self._prepare_boot_files, guest_kernel)
        if self._cgroups is None:
            self._cgroups = CgroupController()
        parts = (self._files, self._confinement, self._cgroups)
        if not problem:
            try:
                return await self._start_factory(QemuSpawner(*parts, Accelerator.KVM))
            except SandboxUnavailable as error:
                problem, remedy = probe.kvm_boot_problem(error.message)
                if not emulation:
                    raise SandboxUnavailable.with_remedy(problem, remedy) from error
        self._kvm_lack = problem
        return await self._start_factory(QemuSpawner(*parts, Accelerator.EMULATION))

    def _prepare_boot_files(self, guest_kernel: kernel.Kernel) -> boot_files.BootFiles:
        root = selection.selected_root(self._context)
        base, digest = (root.path, root.sha256) if root else (None, "")
        python = choose_interpreter(root, self._context.sandbox_python)
        sources = boot_files.boot_sources(guest_kernel, python, base, digest)
        return boot_files.prepare_boot_files(self._context.data_dir, sources)

    async def _start_factory(self, spawner: QemuSpawner) -> MachineFactory:
        """A factory that has started one machine."""
        machines = MachineFactory(spawner)
        user = self._user_ids.acquire()
        try:
            shape = machine_factory.machine_shape(self._default_limits())
            await machines.take_snapshot(shape, user)
        except BaseException:
            await asyncio.to_thread(machines.close)
            raise
        finally:
            self._user_ids.release(user)
        return machines

    def _default_limits(self) -> Limits:
        """The limits of most runs; a run with higher ones gets a machine of its own size."""
        default = Limits()
        memory = self._settings.get("memory_mib", default.memory_bytes // MIB)
        cpus = self._settings.get("cpus", default.cpus)
        return Limits(memory_bytes=int(memory) * MIB, cpus=float(cpus))

    async def _run(
        self, request: RunRequest, isolation: Isolation, watcher: RunWatcher | None = None
    ) -> RunResult:
        user = self._user_ids.acquire()
        try:
            machine, run = await self._execute(request, user, watcher)
        finally:
            self._user_ids.release(user)
        return build_result(
            run,
            self._current_isolation(isolation),
            failure=lambda: SandboxUnavailable(
                f"the machine ended before the program was started ({machine.last_log_line})"
            ),
            out_of_memory=_ran_out_of_memory(machine),
        )

    async def _execute(
        self, request: RunRequest, user: int | None, watcher: RunWatcher | None
    ) -> tuple[GuestMachine, GuestRun]:
        """A finished run; one that did not start is tried again if that may succeed."""
        attempts = 0
        while True:
            machines, machine, run = await self._execute_once(request, user, watcher)
            attempts += 1
            if not _failed_to_start(machine, run):
                machines.record_success(machine)
                return machine, run
            if not machines.record_failure(machine) or attempts == _MAX_ATTEMPTS:
                return machine, run

    async def _execute_once(
        self, request: RunRequest, user: int | None, watcher: RunWatcher | None
    ) -> tuple[MachineFactory, GuestMachine, GuestRun]:
        machines, machine = await self._start_machine(request, user)
        run = await self._create_run(machines, machine, request, watcher)
        try:
            await run.execute(self._encode_job(request))
        except SandboxUnavailable:
            if not run.report.started:
                machines.record_failure(machine)
            raise
        finally:
            self._runs.discard(run)
        return machines, machine, run

    def _current_isolation(self, isolation: Isolation) -> Isolation:
        """Adds what machines have come to lack since the probe."""
        lacks = self._machines.degraded if self._machines is not None else ()
        new = [lack for lack in lacks if lack not in isolation.degraded]
        return structs.replace(isolation, degraded=(*isolation.degraded, *new))

    async def _start_machine(
        self, request: RunRequest, user: int | None
    ) -> tuple[MachineFactory, GuestMachine]:
        machines = self._machines
        if self._closed or machines is None:
            raise SandboxUnavailable("the sandbox is shut down")
        try:
            shape = machine_factory.machine_shape(request.limits)
            return machines, await machines.start(shape, user)
        except SandboxUnavailable:
            self._require_open()  # close() kills a machine that is starting
            raise

    async def _create_run(
        self,
        machines: MachineFactory,
        machine: GuestMachine,
        request: RunRequest,
        watcher: RunWatcher | None,
    ) -> GuestRun:
        try:
            parameters = machine_factory.encode_run_parameters(request.limits)
            await machine.send_parameters(parameters)
            self._require_open()  # close() may have been called while the machine started
        except BaseException:
            await run_deferring_cancellation(machine.end())
            raise
        timeout_s = _SETUP_S[machines.accelerator]
        source, sink = machine.detach_port()
        run = GuestRun(machine, source, sink, request, watcher, setup_timeout_s=timeout_s)
        self._runs.add(run)
        return run

    def _encode_job(self, request: RunRequest) -> Iterator[bytes]:
        return encode_job(request, own_user=True, watch_memory=not self._guest_has_cgroup)


def _ran_out_of_memory(machine: GuestMachine) -> bool:
    text = machine.log.value()
    return machine.out_of_memory or any(message in text for message in _OOM_MESSAGES)


def _failed_to_start(machine: GuestMachine, run: GuestRun) -> bool:
    """Whether the machine ended by itself, or sent garbage, before the program was started."""
    killed = run.kill_reason is not None and not run.malformed
    return not (run.report.started or run.report.failure or killed or _ran_out_of_memory(machine))
