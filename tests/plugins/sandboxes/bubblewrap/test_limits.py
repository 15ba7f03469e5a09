"""Programs that exceed a limit of a real sandbox: each is ended, and the result has the reason."""

import asyncio
import contextlib

import pytest

from appliance.domain.execution import MIB, EndReason, Limits, RunRequest, SandboxFile
from plugins._shared.cgroups.base import OWN_MEMORY
from tests.support.polling import until
from tests.support.sandbox import (
    GENEROUS,
    Backend,
    count_descriptors,
    find_host_processes,
    find_orphaned_sandboxes,
    run_python,
)

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

FORKS_FOREVER = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""


async def test_sleeping_too_long_ends_by_wall_time(backend: Backend):
    mark = "sleeper-4711"
    request = RunRequest(
        ("sh", "-c", f"echo started; sleep 600 # {mark}"), limits=Limits(wall_s=0.5)
    )

    result = await backend.run(request)

    assert result.reason is EndReason.WALL_TIME
    assert (result.exit_code, result.signal) == (None, None)
    assert result.stdout == b"started\n"
    assert not find_host_processes(mark)


async def test_ignored_signals_do_not_save_a_program(backend: Backend):
    code = (
        "import signal, time\n"
        "for n in set(signal.valid_signals()) - {9, 19}: signal.signal(n, signal.SIG_IGN)\n"
        "time.sleep(600)"
    )
    result = await run_python(backend, code, limits=Limits(wall_s=1))

    assert result.reason is EndReason.WALL_TIME


async def test_computing_too_long_ends_by_cpu_time(backend: Backend):
    result = await run_python(backend, "while True: pass", limits=Limits(wall_s=120, cpu_s=0.5))

    assert result.reason is EndReason.CPU_TIME
    assert result.usage.cpu_s >= 0.4


async def test_cpu_time_of_many_processes_counts_as_a_whole(backend: Backend):
    code = "import os\nfor _ in range(6): os.fork()\nwhile True: pass"

    result = await run_python(backend, code, limits=Limits(wall_s=120, cpu_s=2))

    assert result.reason is EndReason.CPU_TIME


async def test_core_dumps_when_a_program_lowers_their_limit_then_it_stays(backend: Backend):
    code = (
        "import resource as r\n"
        "r.setrlimit(r.RLIMIT_CORE, (0, 0))\n"
        "r.prlimit(0, r.RLIMIT_CORE, (0, 0))\n"
        "print(r.getrlimit(r.RLIMIT_CORE), r.prlimit(0, r.RLIMIT_CORE))"
    )
    result = await run_python(backend, code)

    assert result.stdout == b"(1, 1) (1, 1)\n", result.stderr


async def test_core_dumps_when_a_program_crashes_then_there_is_no_file(backend: Backend):
    crash = ("sh", "-c", "ulimit -c 0; kill -SEGV $$")

    result = await backend.run(RunRequest(crash, artifacts=("**",), limits=GENEROUS))

    assert (result.reason, result.signal) == (EndReason.SIGNALLED, 11)
    assert result.artifacts == ()
    assert result.stderr == b""


async def test_memory_in_sockets_is_counted_or_bounded_by_their_number(backend: Backend):
    code = (
        "import os, socket, time\n"
        "for _ in range(3): os.fork()\n"
        "pairs = []\n"
        "while len(pairs) < 240:\n"
        "    pairs.append(socket.socketpair())\n"
        "    for one in pairs[-1]:\n"
        "        one.setblocking(False)\n"
        "        try:\n"
        "            while one.send(bytes(1 << 16)): pass\n"
        "        except BlockingIOError: pass\n"
        "time.sleep(600)"
    )
    limits = Limits(wall_s=60, cpu_s=60, memory_bytes=128 * MIB)

    result = await run_python(backend, code, limits=limits)

    assert result.reason is EndReason.MEMORY


async def test_one_large_allocation_is_refused_to_the_program(backend: Backend):
    result = await run_python(backend, "x = bytearray(1 << 30)")

    assert result.exit_code == 1
    assert b"MemoryError" in result.stderr


async def test_memory_of_many_processes_counts_as_a_whole(backend: Backend):
    code = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(os.urandom(1 << 20) * 40)
        break
time.sleep(60)
"""
    limits = Limits(wall_s=120, cpu_s=60, memory_bytes=128 * MIB)

    result = await run_python(backend, code, limits=limits)

    assert result.reason is EndReason.MEMORY


async def test_shared_memory_counts_too(backend: Backend):
    code = """
import mmap, time
maps = []
while True:
    m = mmap.mmap(-1, 16 << 20); m.write(b'x' * (16 << 20)); maps.append(m); time.sleep(0.02)
"""
    result = await run_python(backend, code, limits=Limits(wall_s=120, memory_bytes=128 * MIB))

    assert result.reason is EndReason.MEMORY


# A run that uses 64 MiB in two processes, and is then killed for something else.
TAKES_64_MIB = """
import os, sys, time
ends = os.pipe()
parent = os.fork()
kept = bytearray(os.urandom(1 << 20))
kept *= 32  # in place: a copy would take twice as much for a moment
if not parent:
    os.write(ends[1], b'x')
    time.sleep(600)
os.read(ends[0], 1)
"""
KILLED_FOR = {
    EndReason.WALL_TIME: "time.sleep(600)",
    EndReason.OUTPUT: "while True: os.write(1, b'x' * 65536)",
    EndReason.MEMORY: "while True: os.fork() or time.sleep(0.02); kept += kept[:8 << 20]",
}


@pytest.mark.parametrize("reason", KILLED_FOR)
async def test_usage_when_killed_then_the_memory_of_all_processes(
    backend: Backend, reason: EndReason
):
    status = await backend.probe()
    assert status.isolation
    code = TAKES_64_MIB + KILLED_FOR[reason]
    limits = Limits(wall_s=3 if reason is EndReason.WALL_TIME else 60, cpu_s=60,
                    memory_bytes=128 * MIB, output_killed_bytes=1 << 20)  # fmt: skip

    result = await run_python(backend, code, limits=limits)

    assert result.reason is reason
    if "cgroup_memory" in status.isolation.layers:
        least = 128 * MIB if reason is EndReason.MEMORY else 64 * MIB
        assert least <= result.usage.max_rss_bytes <= 128 * MIB + OWN_MEMORY
    else:
        assert result.usage.max_rss_bytes > MIB


async def test_fork_bomb_when_at_its_process_limit_then_ended(backend: Backend):
    limits = Limits(wall_s=2, cpu_s=60, processes=20)
    counting = """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0: time.sleep(60)
        children += 1
except BlockingIOError:
    print(children)
"""
    counted = await run_python(backend, counting, limits=Limits(wall_s=60, processes=20))
    bombed = await run_python(backend, FORKS_FOREVER, limits=limits)

    assert counted.stdout == b"19\n"
    assert bombed.reason is EndReason.WALL_TIME
    assert not find_host_processes("while True:\n    try:\n        os.fork()")


@pytest.mark.parametrize("folder", ["/workspace", "/tmp", "/dev/shm"])
async def test_filling_the_disk_fails_at_the_limit(backend: Backend, folder: str):
    code = f"""
import os
written = 0
try:
    for i in range(100):
        with open(f'{folder}/f{{i}}', 'wb', buffering=0) as f: written += f.write(b'x' * (1 << 20))
except OSError as e: print(e.errno, written)
"""
    limits = Limits(wall_s=60, workspace_bytes=8 * MIB, tmp_bytes=8 * MIB)

    result = await run_python(backend, code, limits=limits)

    errno, written = map(int, result.stdout.split())
    assert errno == 28
    assert written <= 8 * MIB


async def test_one_file_can_not_outgrow_the_workspace(backend: Backend):
    limits = Limits(wall_s=60, workspace_bytes=8 * MIB, tmp_bytes=8 * MIB)
    code = "import os; fd = os.open('x', os.O_CREAT | os.O_WRONLY); os.ftruncate(fd, 1 << 30)"

    result = await run_python(backend, code, limits=limits)

    assert result.signal == 25 or b"File too large" in result.stderr


async def test_endless_output_is_stopped_and_cut(backend: Backend):
    limits = Limits(wall_s=120, cpu_s=60, output_kept_bytes=1000, output_killed_bytes=1_000_000)

    result = await backend.run(RunRequest(("sh", "-c", "yes abc"), limits=limits))

    assert result.reason is EndReason.OUTPUT
    assert result.output_truncated
    assert result.stdout.startswith(b"abc\nabc\n")
    assert b"bytes left out" in result.stdout
    assert len(result.stdout) < 1100


async def test_output_in_the_middle_is_left_out_first(backend: Backend):
    limits = Limits(wall_s=60, output_kept_bytes=200)

    result = await run_python(backend, "print('first', *range(1000), 'last')", limits=limits)

    assert result.ok
    assert result.output_truncated
    assert result.stdout.startswith(b"first 0 1")
    assert result.stdout.endswith(b"998 999 last\n")


async def test_flood_into_closed_output_is_the_programs_own_end(backend: Backend):
    code = "import os\nos.close(1)\nwhile True: os.write(1, b'x' * 65536)"

    result = await run_python(backend, code)

    assert result.exit_code == 1
    assert b"Bad file descriptor" in result.stderr


async def test_daemon_when_the_run_ends_then_killed(backend: Backend):
    mark = "daemon-4712"
    code = f"""
import os, time  # {mark}
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in range(3): os.close(fd)
        time.sleep(600)
    os._exit(0)
os.wait()
print('gone')
"""
    result = await run_python(backend, code)

    assert result.stdout == b"gone\n"
    assert result.ok
    assert not find_host_processes(mark)


async def test_run_when_cancelled_then_its_processes_have_ended(backend: Backend):
    mark = "cancelled-4713"
    code = f"import os, time\nos.fork(); os.fork(); time.sleep(600)  # {mark}"
    task = asyncio.create_task(run_python(backend, code))
    await until(lambda: len(find_host_processes(mark)) >= 4)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not find_host_processes(mark)


async def test_run_cancelled_at_any_moment_leaves_nothing(backend: Backend):
    mark = "cancelled-4714"
    given = tuple(SandboxFile(f"f{i}", b"x" * 1000) for i in range(200))
    before = find_orphaned_sandboxes()
    for step in range(12):
        task = asyncio.create_task(run_python(backend, f"print(1) # {mark}", files=given))
        await asyncio.sleep(step * 0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert not find_host_processes(mark)
    assert find_orphaned_sandboxes() <= before
    assert (await run_python(backend, "print(2)")).stdout == b"2\n"


async def test_program_can_not_end_or_stop_its_supervisor(backend: Backend):
    code = """
import os, signal
for number in (2, 9, 15, 19, 17):
    try: os.kill(1, number)
    except PermissionError: pass  # Landlock refuses it, where the kernel's has that
for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/maps'):
    try: open(path, 'rb').read(1); print('read', path)
    except OSError: pass
try: print(os.listdir('/proc/1/fd'))
except OSError: print('closed')
"""
    result = await run_python(backend, code)

    assert result.ok
    assert result.stdout == b"closed\n"


async def test_service_when_all_of_this_has_happened_then_works_and_leaks_no_descriptor(
    backend: Backend,
):
    before = count_descriptors()
    results = await asyncio.gather(*(run_python(backend, f"print({i})") for i in range(20)))

    assert [int(result.stdout) for result in results] == list(range(20))
    assert (await backend.run(RunRequest(("sh", "-c", ":"), limits=GENEROUS))).ok
    assert count_descriptors() == before
