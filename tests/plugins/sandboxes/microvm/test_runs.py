"""Whole runs in a real machine: with KVM where it works, else by emulation."""

import asyncio
import json
import os
import platform
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from appliance.domain.execution import (
    MIB,
    BackendStatus,
    EndReason,
    IsolationLevel,
    Limits,
    OutputStream,
    RunRequest,
    SandboxFile,
)
from plugins.sandboxes.microvm import boot_files
from plugins.sandboxes.microvm.backend import MicroVm
from plugins.sandboxes.microvm.machine import GuestMachine
from plugins.sandboxes.microvm.qmp import QmpClient
from tests.support import microvm
from tests.support.hostile_agent import hostile_files
from tests.support.polling import until
from tests.support.sandbox import RecordingWatcher, count_descriptors
from tests.support.sandbox_sessions import SessionHarness, check_workspace_outlives_runs
from tests.support.stream_programs import stream_request

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [pytest.mark.asyncio(loop_scope="module"), microvm.needs_microvm]

# An emulated processor, on a machine as busy as it may be.
GENEROUS = Limits(wall_s=120.0, cpu_s=60.0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def probed(sandbox_python: Path, home: Path) -> AsyncIterator[tuple[MicroVm, BackendStatus]]:
    """Its agents behave until a job names an attack."""
    data = home / "data"
    tested = MicroVm(microvm.context(sandbox_python, data, home / "run"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boot_files, "agent_files", hostile_files)
        status = await tested.probe()
    assert status.available, f"{status.problem}. {status.remedy}"
    yield tested, status
    watcher = RecordingWatcher()
    request = RunRequest(("sleep", "600"), limits=GENEROUS)
    running = asyncio.create_task(tested.run_watched(request, watcher))
    await until(lambda: watcher.events, 120)
    await tested.close()
    assert (await running).reason is EndReason.CANCELLED
    assert microvm.qemu_pids_below(os.getpid()) == []
    assert microvm.snapshot_fds() == []
    names = [path.name for path in (data / "microvm").iterdir() if path.name != ".lock"]
    assert len(names) == 1, f"nothing but the guests' files may remain: {names}"


@pytest.fixture(scope="module")
def backend(probed: tuple[MicroVm, BackendStatus]) -> MicroVm:
    return probed[0]


async def python(backend: MicroVm, code: str, **limits: float):
    request = RunRequest(("python", "-c", code), limits=Limits(**{**TIME_LIMITS, **limits}))  # pyright: ignore[reportArgumentType]
    return await backend.run(request)


TIME_LIMITS = {"wall_s": GENEROUS.wall_s, "cpu_s": GENEROUS.cpu_s}


async def test_probe_in_a_real_machine_tells_what_it_is(probed: tuple[MicroVm, BackendStatus]):
    _, status = probed

    assert status.available
    assert status.languages["python"].startswith("3.")
    assert status.languages["sh"]
    assert status.isolation is not None
    assert status.isolation.level is IsolationLevel.MICROVM
    layers = set(status.isolation.layers)
    assert not any("boots a machine" in lack for lack in status.isolation.degraded)
    assert {
        "own_kernel",
        "no_network",
        "read_only_system",
        "hidden_supervisor",
        "qemu_seccomp",
    } <= layers
    emulated = any("emulated" in lack for lack in status.isolation.degraded)
    assert ("kvm" in layers) != emulated


async def test_streams_when_opened_by_name_then_they_are_the_programs(backend: MicroVm) -> None:
    """F1"""
    result = await backend.run(structs.replace(stream_request("python"), limits=GENEROUS))

    assert (result.stdout, result.stderr, result.exit_code) == (b"abc", b"e", 0)


async def test_run_takes_files_and_input_and_gives_output_artifacts_and_exit_code(
    backend: MicroVm,
):
    code = (
        "import os, sys; print(open('deep/in').read(), sys.stdin.read());"
        "print('err', file=sys.stderr); open('out', 'wb').write(bytes(100_000));"
        "os.symlink('/etc/passwd', 'link'); sys.exit(7)"
    )
    request = RunRequest(
        ("python", "main.py"),
        files=(SandboxFile("main.py", code.encode()), SandboxFile("deep/in", b"hi")),
        stdin=b"there",
        artifacts=("out", "link"),
        limits=GENEROUS,
    )
    watcher = RecordingWatcher()

    result = await backend.run_watched(request, watcher)

    assert (result.reason, result.exit_code) == (EndReason.EXITED, 7), result
    assert (result.stdout, result.stderr) == (b"hi there\n", b"err\n")
    assert result.artifacts == (SandboxFile("out", bytes(100_000)),)
    assert [reason.split(":")[0] for reason in result.artifacts_refused] == ["link"]
    assert result.isolation.backend == "microvm"
    assert watcher.events[0] == "started"
    assert watcher.joined(OutputStream.STDOUT) == b"hi there\n"
    assert watcher.joined(OutputStream.STDERR) == b"err\n"


async def test_program_sees_another_kernel_and_no_network(backend: MicroVm):
    code = """
import json, os, socket, time
def failure(family, address):
    try:
        with socket.socket(family, socket.SOCK_STREAM) as s:
            s.settimeout(5); s.connect(address)
    except OSError as error:
        return error.strerror or str(error)
    return "connected"
print(json.dumps({
    "boot": open("/proc/sys/kernel/random/boot_id").read().strip(),
    "interfaces": [name for _, name in socket.if_nameindex()],
    "far": failure(socket.AF_INET, ("192.0.2.1", 80)),
    "metadata": failure(socket.AF_INET, ("169.254.169.254", 80)),
    "vsock": hasattr(socket, "AF_VSOCK") and failure(40, (2, 1)),
    "processes": len([name for name in os.listdir("/proc") if name.isdigit()]),
    "host": os.uname().nodename,
    "random": os.urandom(16).hex(),
    "now": time.time(),
}))
"""
    first = await python(backend, code)
    second = await python(backend, code)

    seen, again = (json.loads(result.stdout) for result in (first, second))
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()  # noqa: ASYNC240
    assert seen["boot"] != boot.strip()
    assert seen["interfaces"] == ["lo"]
    assert "unreachable" in seen["far"]
    assert "unreachable" in seen["metadata"]
    assert seen["vsock"] != "connected"
    assert seen["processes"] <= 2
    assert seen["host"] == "sandbox" != platform.node()
    assert seen["random"] != again["random"], "both began from the same snapshot"
    assert abs(again["now"] - seen["now"]) < 3600
    assert again["now"] > seen["now"]


async def test_workspace_is_limited_in_bytes_and_files(backend: MicroVm):
    code = """
import errno, os
names = []
def fill(write):
    try:
        for number in range(100_000): write(number)
    except OSError as error:
        return errno.errorcode[error.errno], number
print(*fill(lambda n: open(f"file{n}", "x").close()))
for name in os.listdir("."): os.unlink(name)
with open("big", "wb", buffering=0) as file:
    print(*fill(lambda n: file.write(bytes(65536))))
"""
    result = await python(
        backend, code, workspace_files=50, workspace_bytes=1 * MIB, tmp_bytes=1 * MIB
    )

    boot_files, sizes = (line.split() for line in result.stdout.decode().splitlines())
    assert boot_files == ["ENOSPC", "50"], result
    assert sizes[0] in ("ENOSPC", "EFBIG")


async def test_program_that_sleeps_is_ended_after_its_time(backend: MicroVm):
    result = await python(backend, "import time; print(1, flush=True); time.sleep(600)", wall_s=8.0)

    assert result.reason is EndReason.WALL_TIME
    assert 8.0 <= result.usage.wall_s < 60


async def test_memory_of_all_processes_together_is_limited(backend: MicroVm):
    code = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        block = bytearray(24 << 20)
        for at in range(0, len(block), 4096): block[at] = 1
        time.sleep(600)
time.sleep(600)
"""
    result = await python(backend, code, memory_bytes=64 * MIB)

    assert result.reason is EndReason.MEMORY, result


async def test_fork_bomb_is_held_and_the_next_run_works(backend: MicroVm):
    code = """
import os
count = 0
try:
    while True:
        if os.fork() == 0:
            import time; time.sleep(600)
        count += 1
except OSError as error:
    print(count < 16, error.strerror)
"""
    result = await python(backend, code, processes=16)

    assert result.stdout == b"True Resource temporarily unavailable\n", result
    assert result.exit_code == 0


async def test_machine_that_is_killed_ends_its_run_and_the_next_one_works(backend: MicroVm):
    watcher = RecordingWatcher()
    request = RunRequest(("sleep", "600"), limits=GENEROUS)
    running = asyncio.create_task(backend.run_watched(request, watcher))
    await until(lambda: watcher.events, 120)
    before = count_descriptors()

    [machine] = microvm.qemu_pids_below(os.getpid())
    os.kill(machine, signal.SIGKILL)
    result = await asyncio.wait_for(running, 30)

    assert (result.reason, result.signal) == (EndReason.SIGNALLED, 9)
    assert count_descriptors() < before
    assert (await backend.run(RunRequest(("true",), limits=GENEROUS))).ok


async def test_machine_is_bounded_on_the_host_too(
    probed: tuple[MicroVm, BackendStatus],
):
    backend, status = probed
    watcher = RecordingWatcher()
    request = RunRequest(("sleep", "600"), limits=GENEROUS)
    running = asyncio.create_task(backend.run_watched(request, watcher))
    await until(lambda: watcher.events, 120)

    [machine] = microvm.qemu_pids_below(os.getpid())
    of_machine, of_us = (groups_of(pid) for pid in (machine, os.getpid()))
    limits = Path(f"/proc/{machine}/limits").read_text()  # noqa: ASYNC240
    running.cancel()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert "Max data size             1543503872" in limits  # a GiB more than its memory
    assert "Max file size             0 " in limits
    assert status.isolation is not None
    held = "qemu_cgroup_memory" in status.isolation.layers
    assert held or any("no control group for QEMU" in lack for lack in status.isolation.degraded)
    assert held == any("monkey-coder-" in group for group in of_machine - of_us)


def groups_of(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/cgroup").read_text().splitlines())


@pytest.mark.parametrize(
    ("name", "reason"),
    [("largest frame", EndReason.SIGNALLED), ("endless output", EndReason.OUTPUT)],
)
async def test_agent_that_was_taken_over_is_ended(backend: MicroVm, name: str, reason: EndReason):
    request = RunRequest(("true", f"attack:{name}!"), limits=GENEROUS)

    result = await backend.run(request)

    assert (result.reason, result.artifacts) == (reason, ())


async def test_run_that_is_cancelled_leaves_no_machine(backend: MicroVm):
    watcher = RecordingWatcher()
    before = count_descriptors()
    request = RunRequest(("sleep", "600"), limits=GENEROUS)
    runs = [asyncio.create_task(backend.run_watched(request, watcher)) for _ in range(2)]
    await until(lambda: watcher.events, 120)

    for run in runs:  # one has begun, the other may still be on its way
        run.cancel()
    done = await asyncio.wait_for(asyncio.gather(*runs, return_exceptions=True), 30)

    assert [type(result) for result in done] == [asyncio.CancelledError] * 2
    assert microvm.qemu_pids_below(os.getpid()) == []
    assert count_descriptors() == before


async def test_run_that_asks_for_more_memory_than_usual_gets_a_machine_of_its_own(
    backend: MicroVm,
):
    code = "print(int(open('/proc/meminfo').readline().split()[1]) // 1024)"

    result = await python(backend, code, memory_bytes=512 * MIB)

    assert int(result.stdout) > 512, "the usual one has less"


@pytest.mark.slow
async def test_snapshot_of_another_version_is_replaced_and_the_run_answers(
    backend: MicroVm, caplog: pytest.LogCaptureFixture
):
    [snapshot] = microvm.snapshot_fds()
    before = os.fstat(snapshot).st_ino
    os.pwrite(snapshot, (99).to_bytes(4, "big"), len(b"QEVM"))

    runs = [backend.run(RunRequest(("echo", "answer"), limits=GENEROUS)) for _ in range(2)]
    first, second = await asyncio.gather(*runs)

    assert first.stdout == second.stdout == b"answer\n", (first, second)
    assert not any("boots a machine" in lack for lack in first.isolation.degraded)
    [after] = [os.fstat(fd).st_ino for fd in microvm.snapshot_fds()]
    assert after != before
    [message] = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert message.startswith("a machine was not resumed from its snapshot (")
    assert message.endswith("a new one is taken")


@pytest.mark.slow
async def test_machine_that_is_killed_as_it_waits_and_a_full_disk_leave_the_run_an_answer(
    backend: MicroVm, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    send, save = GuestMachine.send_parameters, QmpClient.save_state

    async def kill(machine: GuestMachine, parameters: bytes) -> None:
        monkeypatch.setattr(GuestMachine, "send_parameters", send)
        machine.kill()
        await send(machine, parameters)

    def save_to_a_full_disk(monitor: QmpClient, state: int) -> None:
        del state
        with open("/dev/full", "wb") as full:  # noqa: PTH123
            save(monitor, full.fileno())

    monkeypatch.setattr(GuestMachine, "send_parameters", kill)
    monkeypatch.setattr(QmpClient, "save_state", save_to_a_full_disk)
    before = count_descriptors()

    result = await backend.run(RunRequest(("echo", "answer"), limits=GENEROUS))

    assert result.stdout == b"answer\n", result
    lack = result.isolation.degraded[-1]
    assert lack.startswith("each run boots a machine: a machine's state was not saved")
    first, second = [record.message for record in caplog.records]
    assert first.endswith("a new one is taken")
    assert second == lack
    assert microvm.snapshot_fds() == []
    assert microvm.qemu_pids_below(os.getpid()) == []
    assert count_descriptors() == before - 1, "that of the snapshot"


async def test_session_when_programs_run_in_machines_then_its_files_stay(
    backend: MicroVm, tmp_path: Path
) -> None:
    await check_workspace_outlives_runs(SessionHarness(backend, tmp_path / "s"), GENEROUS)
