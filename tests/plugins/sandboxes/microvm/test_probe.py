"""What the backend answers where something is missing: the reason, and what to do about it."""

import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.config.settings import SandboxSettings
from appliance.domain.execution import BackendStatus, IsolationLevel, RunRequest
from appliance.errors import InvalidInput, SandboxUnavailable
from appliance.sandbox.runner import SandboxRunner
from plugins._shared.cgroups import v1, v2
from plugins._shared.cgroups.base import CgroupsUnavailable
from plugins._shared.cgroups.controller import CgroupController
from plugins.sandboxes.microvm import kernel, probe, qemu_confinement
from plugins.sandboxes.microvm.backend import MicroVm
from plugins.sandboxes.microvm.boot_files import BootFiles
from plugins.sandboxes.microvm.machine import GuestMachine
from plugins.sandboxes.microvm.machine_factory import MachineFactory
from plugins.sandboxes.microvm.qemu_argv import Accelerator
from plugins.sandboxes.microvm.qemu_confinement import QemuConfinement
from plugins.sandboxes.microvm.qemu_spawner import QemuSpawner
from tests.support import microvm

pytestmark = microvm.only_x86_64

KVM_PROBLEM = ("this machine offers no virtualization", "turn it on in the firmware")


def backend(tmp_path: Path, **settings: Any) -> MicroVm:
    return MicroVm(microvm.context(tmp_path / "python", tmp_path, tmp_path / "run", **settings))


@pytest.fixture
def with_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = kernel.Kernel(tmp_path / "vmlinuz", "6.1.0", None)

    def find(setting: str) -> kernel.Kernel:
        del setting
        return fake

    monkeypatch.setattr(kernel, "find_kernel", find)


def confine(runtime_dir: Path, user: int | None) -> QemuConfinement:
    del runtime_dir, user
    return QemuConfinement((), {}, (), (), ())


async def answer(tested: MicroVm) -> BackendStatus:
    status = await tested.probe()
    await tested.close()
    return status


async def test_probe_without_a_kernel_says_so(tmp_path: Path):
    status = await answer(backend(tmp_path, microvm_kernel=str(tmp_path / "gone")))

    assert not status.available
    assert "gone, which can't be read" in status.problem
    assert "sandbox.microvm_kernel" in status.remedy


@pytest.mark.usefixtures("with_kernel")
async def test_probe_without_qemu_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(qemu_confinement, "_PATH", str(tmp_path))

    status = await answer(backend(tmp_path))

    assert not status.available
    assert "qemu-system-x86_64 is missing" in status.problem
    assert "qemu-system-x86" in status.remedy


@pytest.mark.usefixtures("with_kernel")
async def test_probe_with_a_qemu_that_does_not_start_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / qemu_confinement.QEMU
    program.write_text("#!/bin/sh\necho no such library >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(qemu_confinement, "_PATH", str(tmp_path / "bin"))

    status = await answer(backend(tmp_path))

    assert not status.available
    assert "QEMU does not start without privileges" in status.problem


@pytest.mark.usefixtures("with_kernel")
async def test_probe_without_kvm_names_emulation_and_does_not_use_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(probe, "kvm_problem", lambda: KVM_PROBLEM)
    monkeypatch.setattr("plugins.sandboxes.microvm.backend.find_confinement", confine)

    status = await answer(backend(tmp_path, microvm_emulation=False))

    assert (status.available, status.problem, status.remedy) == (False, *KVM_PROBLEM)
    assert os.listdir(tmp_path) == [], "nothing is built for what can't run"  # noqa: PTH208


async def test_run_where_no_machine_starts_is_refused_with_the_reason(tmp_path: Path):
    tested = backend(tmp_path, microvm_kernel=str(tmp_path / "gone"))

    with pytest.raises(SandboxUnavailable, match="can't be read"):
        await tested.run(RunRequest(("true",)))
    with pytest.raises(InvalidInput):
        await tested.run(RunRequest(()))
    await tested.close()


async def test_requirement_of_microvm_where_there_is_none_fails_closed(tmp_path: Path):
    tested = backend(tmp_path, microvm_kernel=str(tmp_path / "gone"))
    settings = SandboxSettings(require="microvm")
    runner = SandboxRunner({"microvm": tested}, settings, first_retry_s=600)
    await runner.start()

    with pytest.raises(SandboxUnavailable, match="can't be read"):
        await runner.run(RunRequest(("true",)))
    await runner.close()


class Weaker:
    """A backend that offers namespaces."""

    name = "weaker"

    async def probe(self) -> BackendStatus:
        isolation = probe.Isolation("weaker", IsolationLevel.NAMESPACES, ())
        return BackendStatus("weaker", True, isolation)

    async def run(self, request: RunRequest) -> Any:
        raise AssertionError("run below the level that the settings require")

    async def close(self) -> None: ...


async def test_requirement_of_microvm_is_not_met_by_a_weaker_backend(tmp_path: Path):
    tested = backend(tmp_path, microvm_kernel=str(tmp_path / "gone"))
    settings = SandboxSettings(require="microvm")
    runner = SandboxRunner({"microvm": tested, "weaker": Weaker()}, settings, first_retry_s=600)
    await runner.start()

    with pytest.raises(SandboxUnavailable, match="demands microvm"):
        await runner.run(RunRequest(("true",)))
    await runner.close()


# What a guest reports

FACTS: dict[str, Any] = {
    "python": "3.11.7", "kernel": "6.1.0", "boot": "another", "user": 1000,
    "no_new_privileges": 1, "capabilities": 0, "processes": 2, "interfaces": ["lo"],
    "writable": [], "supervisor_hidden": True, "has_cgroup": True,
}  # fmt: skip
CONFINED = QemuConfinement((), {}, (), ("qemu_seccomp",), ("something",))


def isolation(accelerator: Accelerator = Accelerator.KVM, **facts: Any):
    printed = json.dumps(FACTS | facts).encode()
    return probe.proven_isolation(printed, "microvm", machines(accelerator), "no KVM here")[0]


def no_groups() -> CgroupController:
    def refuse(service: int) -> None:
        del service
        raise CgroupsUnavailable("none here")

    with pytest.MonkeyPatch.context() as patch:
        for version in (v1, v2):
            patch.setattr(version, "detect", refuse)
        return CgroupController()


def machines(accelerator: Accelerator = Accelerator.KVM) -> MachineFactory:
    return MachineFactory(
        QemuSpawner(BootFiles(Path(), -1, -1, -1), CONFINED, no_groups(), accelerator)
    )


def test_isolation_with_kvm_says_so():
    proven = isolation()

    assert proven.level is IsolationLevel.MICROVM
    assert {"own_kernel", "kvm", "qemu_seccomp", "cgroup_memory"} <= set(proven.layers)
    assert proven.degraded[0] == "something"
    assert "no control group for QEMU (none here; none here)" in proven.degraded[1]
    assert "qemu_cgroup_memory" not in proven.layers


def test_isolation_by_emulation_is_degraded():
    proven = isolation(Accelerator.EMULATION)

    assert "kvm" not in proven.layers
    assert "emulated" in proven.degraded[0]
    assert "no KVM here" in proven.degraded[0]


def test_isolation_without_control_groups_in_the_guest_is_degraded():
    proven = isolation(has_cgroup=False)

    assert "memory_watch" in proven.layers
    assert any("control groups" in lack for lack in proven.degraded)


@pytest.mark.parametrize(
    ("fact", "hole"),
    [
        ({"boot": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}, "the host's"),
        ({"user": 0}, "root"),
        ({"no_new_privileges": 0}, "gain privileges"),
        ({"capabilities": 1}, "capabilities"),
        ({"processes": 40}, "visible"),
        ({"interfaces": ["lo", "eth0"]}, "network"),
        ({"writable": ["/etc/x"]}, "/etc/x"),
    ],
)
def test_machine_with_a_hole_is_refused(fact: dict[str, Any], hole: str):
    with pytest.raises(SandboxUnavailable, match=hole):
        isolation(**fact)


@pytest.mark.parametrize("printed", [b"", b"no json", b"{}", b'{"python": 3}'])
def test_guest_that_reports_no_facts_is_refused(printed: bytes):
    with pytest.raises(SandboxUnavailable, match="does not work"):
        probe.proven_isolation(printed, "microvm", machines(), "")


# Snapshots that fail


def test_second_snapshot_in_a_row_that_never_worked_is_the_last_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    machine_factory = machines()
    machine = cast("GuestMachine", SimpleNamespace(snapshot=None, last_log_line="of its own"))
    assert not machine_factory.record_failure(machine), "it booted: another try would do no better"

    for worked_before in (False, True, False):
        assert not machine_factory.degraded
        with tempfile.TemporaryFile() as snapshot:
            monkeypatch.setattr(machine_factory, "_snapshot", snapshot)
            machine.snapshot = snapshot
            if worked_before:
                machine_factory.record_success(machine)
            for _ in range(2):  # all that went on from it
                assert machine_factory.record_failure(machine)
            machine_factory.record_success(machine)  # too late

    assert machine_factory.degraded == (
        "each run boots a machine: a machine was not resumed from its snapshot (of its own)",
    )
    assert [record.message.rpartition("; ")[2] for record in caplog.records] == [
        "a new one is taken",
        "a new one is taken",
        "none is taken again",
    ]
    machine_factory.retry_snapshot()
    assert not machine_factory.degraded
    machine_factory.close()


@microvm.needs_microvm
def test_qemu_is_confined_as_well_as_this_machine_allows(tmp_path: Path):
    user = 2_000_000_777 if os.geteuid() == 0 else None

    confinement = qemu_confinement.find_confinement(tmp_path, user)
    confinement.close()

    assert "qemu_seccomp" in confinement.layers
    assert ("unprivileged_user" in confinement.layers) == (user is not None)
