"""Programs that try to get out of a real sandbox: each attempt fails.

The attempts run in sandboxes only. Each prints its result, which the test compares.
"""

import ast
import asyncio
import os
import platform
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec import structs

from appliance.domain.execution import MIB, EndReason, RunRequest
from tests.support.polling import until
from tests.support.sandbox import (
    GENEROUS,
    ORDINARY_USER,
    ROOT,
    Backend,
    RemoteBackend,
    find_host_processes,
    find_orphaned_sandboxes,
    run_python,
    start_as_ordinary_user,
    start_service,
    without_user_namespaces,
)

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

SYSCALL = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *args):
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, args))
    return errno.errorcode[ctypes.get_errno()] if result < 0 else 'went through'
"""

# With arguments that would take effect if the call were allowed.
REFUSED_CALLS = {
    "unshare(NEWUSER)": (272, 0x10000000),
    "unshare(NEWNS)": (272, 0x20000),
    "clone(NEWUSER)": (56, 0x10000000 | 17, 0, 0, 0, 0),
    "clone(NEWNET)": (56, 0x40000000 | 17, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "mount": (165, 0, 0, 0, 0, 0),
    "umount2": (166, 0, 0),
    "pivot_root": (155, 0, 0),
    "chroot": (161, 0),
    "fsopen": (430, 0, 0),
    "open_tree": (428, -100, 0, 1),
    "ptrace(TRACEME)": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "pidfd_getfd": (438, 0, 0, 0),
    "keyctl": (250, 0, -3, 0),
    "add_key": (248, 0, 0, 0, 0, -3),
    "io_uring_setup": (425, 1, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 0),
    "shmget": (29, 0, 4096, 0o1600),
    "open_by_handle_at": (304, 0, 0, 0),
    "personality(ADDR_NO_RANDOMIZE)": (135, 0x0040000),
    "init_module": (175, 0, 0, 0),
    "syslog": (103, 3, 0, 0),
    "sethostname": (170, 0, 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "socket(VSOCK)": (41, 40, 1, 0),
    "socket(PACKET)": (41, 17, 3, 0),
    "socket(ALG)": (41, 38, 5, 0),
    "socket(NETLINK_NETFILTER)": (41, 16, 3, 12),
    "socket(RAW)": (41, 2, 3, 255),
    "ioctl(TIOCSTI)": (16, 0, 0x5412, 0),
    "ioctl(TIOCSTI in the high half too)": (16, 0, 0xF00000005412, 0),
}

only_x86_64 = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the numbers in this test are those of x86_64"
)


@only_x86_64
async def test_dangerous_calls_are_refused(backend: Backend):
    code = SYSCALL + f"for name, args in {REFUSED_CALLS!r}.items(): print(name, call(*args))"

    result = await run_python(backend, code)

    assert result.stdout.decode().splitlines() == [f"{name} EPERM" for name in REFUSED_CALLS]


async def test_memory_files_are_counted_or_refused(backend: Backend):
    code = """
import os
fd = os.memfd_create('x')
for _ in range(90): os.write(fd, b'x' * (1 << 20))
"""
    limits = structs.replace(GENEROUS, memory_bytes=32 * MIB)
    status = await backend.probe()
    assert status.isolation is not None

    result = await run_python(backend, code, limits=limits)

    if "cgroup_memory" in status.isolation.layers:
        assert result.reason is EndReason.MEMORY
    else:
        assert b"PermissionError" in result.stderr
        assert any("memfd_create" in text for text in status.isolation.degraded)


@only_x86_64
async def test_calls_unknown_to_the_filter_do_not_exist(backend: Backend):
    code = SYSCALL + "print(call(435, 0, 0), call(470, 0), call(5000))"

    assert (await run_python(backend, code)).stdout == b"ENOSYS ENOSYS ENOSYS\n"


@only_x86_64
@pytest.mark.parametrize(
    "code",
    [
        SYSCALL + "call(0x40000000 | 39); print('survived')",
        # mov eax, 20; int 0x80; ret: getpid as a 32-bit program would ask for it
        "import ctypes, mmap\n"
        "m = mmap.mmap(-1, 4096, prot=7); m.write(bytes.fromhex('b814000000cd80c3'))\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()\n"
        "print('survived')",
    ],
    ids=["x32", "i386"],
)
async def test_calls_of_a_foreign_abi_end_the_program(backend: Backend, code: str):
    result = await run_python(backend, code)

    assert (result.reason, result.signal) == (EndReason.SIGNALLED, 31)
    assert result.stdout == b""


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder of the host that every user may enter and read."""
    with tempfile.TemporaryDirectory(prefix="everybody-may-read-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


async def test_network_can_not_be_reached(backend: Backend, open_place: Path):
    code = """
import socket, sys
def attempt(name, work):
    try: work(); print(name, 'REACHED')
    except OSError: pass
port = int(sys.argv[1])
attempt('loopback', lambda: socket.create_connection(('127.0.0.1', port), 2))
attempt('address', lambda: socket.create_connection(('192.0.2.1', 80), 2))
attempt('metadata', lambda: socket.create_connection(('169.254.169.254', 80), 2))
attempt('ipv6', lambda: socket.create_connection(('2001:db8::1', 80), 2))
attempt('udp', lambda: socket.socket(2, 2).sendto(b'x', ('192.0.2.1', 53)))
attempt('name', lambda: socket.getaddrinfo('example.com', 80))
attempt('abstract', lambda: socket.socket(1).connect('\\0' + sys.argv[2]))
attempt('path', lambda: socket.socket(1).connect(sys.argv[3]))
print([name for _, name in socket.if_nameindex()])
"""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as abstract,
        socket.socket(socket.AF_UNIX) as named,
    ):
        abstract.bind(f"\0sandbox-test-{os.getpid()}")
        abstract.listen()
        named.bind(f"{open_place}/socket")
        named.listen()
        words = (
            str(server.getsockname()[1]),
            f"sandbox-test-{os.getpid()}",
            f"{open_place}/socket",
        )
        result = await backend.run(RunRequest(("python", "-c", code, *words), limits=GENEROUS))

    assert result.stdout == b"['lo']\n", result


async def test_files_of_the_host_are_not_there(backend: Backend, open_place: Path):
    there = [
        "/etc/shadow", "/etc/hostname", "/etc/ssh", "/root", "/home", "/var/lib", "/var/log",
        "/run", "/sys", "/boot", "/mnt", "/oldroot", "/newroot", str(open_place), str(ROOT),
    ]  # fmt: skip
    code = f"import os; print([p for p in {there!r} if os.path.exists(p)], sorted(os.listdir('/')))"

    result = await run_python(backend, code)

    found, _, root = result.stdout.decode().partition("] ")
    assert found == "["
    allowed = "bin dev etc lib lib32 lib64 libx32 opt proc sbin tmp usr var workspace"
    assert set(ast.literal_eval(root)) <= set(allowed.split())


async def test_only_workspace_tmp_and_shm_can_be_written(backend: Backend):
    code = """
import os
written = []
for folder, folders, files in os.walk('/'):
    if folder.startswith(('/proc/', '/usr/share', '/usr/lib/')): folders[:] = []
    try:
        open(folder + '/written', 'w').close(); written.append(folder)
    except OSError: pass
print(sorted(written))
for path in ('/usr/bin/env', '/opt/python/bin/python3', '/etc/passwd', '/proc/sys/kernel/hostname',
             '/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/proc/self/oom_score_adj'):
    for work in (lambda: os.close(os.open(path, os.O_WRONLY)), lambda: os.chmod(path, 0o777),
                 lambda: os.unlink(path), lambda: os.rename(path, path + '2')):
        try: work(); print('changed', path)
        except OSError: pass
"""
    result = await run_python(backend, code)

    assert result.stdout == b"['/dev/shm', '/tmp', '/workspace']\n", result


async def test_processes_of_the_host_are_not_there(backend: Backend):
    code = """
import os
print(sorted(int(name) for name in os.listdir('/proc') if name.isdigit()), os.getpid())
print(open('/proc/1/cmdline').read().split(chr(0))[0])
try: os.kill(int(os.environ['HOST']), 0)
except ProcessLookupError: print('nobody')
"""
    result = await run_python(backend, code, env={"HOST": str(os.getpid())})

    assert result.stdout == b"[1, 2] 2\n/opt/python/libexec/supervisor\nnobody\n"


async def test_program_has_no_capabilities_and_gains_none(backend: Backend):
    code = """
import os, subprocess
status = dict(line.split(':', 1) for line in open('/proc/self/status'))
print([status[name].strip() for name in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')])
print(os.getresuid(), os.getresgid(), status['NoNewPrivs'].strip())
for work in (lambda: os.setuid(0), lambda: os.setgroups([0]), lambda: os.chown('/tmp', 0, 0),
             lambda: os.mknod('/tmp/disk', 0o60600, 0x800), lambda: os.nice(-1)):
    try: work(); print('allowed')
    except OSError: pass
open('/tmp/id', 'wb').write(open('/usr/bin/id', 'rb').read()); os.chmod('/tmp/id', 0o6755)
print(subprocess.run(['/tmp/id', '-u'], capture_output=True, text=True).stdout)
"""
    result = await run_python(backend, code)

    lines = result.stdout.decode().splitlines()
    assert lines[0] == str(["0" * 16] * 5)
    assert lines[1] == "(1000, 1000, 1000) (1000, 1000, 1000) 1"
    assert lines[2:] == ["1000", ""]


async def test_no_descriptor_but_the_three_is_open(backend: Backend):
    result = await backend.run(RunRequest(("sh", "-c", "ls -l /proc/self/fd"), limits=GENEROUS))

    links = [line.split(" -> ")[1] for line in result.stdout.decode().splitlines()[1:]]
    assert all(link.startswith(("pipe:", "/proc/")) for link in links)
    assert len(links) == 4  # the fourth is the folder that ls opened


async def test_report_can_not_be_forged_by_the_program(backend: Backend):
    code = """
import os
for fd in range(3, 64):
    try: os.write(fd, b'X' * 100); print('wrote to', fd)
    except OSError: pass
for pid in ('1', 'self'):
    try:
        for fd in os.listdir(f'/proc/{pid}/fd'): open(f'/proc/{pid}/fd/{fd}', 'wb').write(b'')
    except OSError: pass
"""
    result = await run_python(backend, code)

    assert result.ok
    assert result.stdout == b""


@pytest.mark.parametrize("user", ["user of the tests", "ordinary user"])
async def test_death_of_the_service_ends_its_sandboxes(
    user: str, sandbox_python: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    mark = f"orphan-{os.getpid()}"
    before = find_orphaned_sandboxes()
    service = await _service(user, sandbox_python, request, tmp_path)
    code = f"import os, time\nos.fork(); time.sleep(600)  # {mark}"
    running = asyncio.create_task(run_python(service, code))
    await until(lambda: len(find_host_processes(mark)) == 2 or running.done())
    assert not running.done(), running

    await service.kill()
    await until(lambda: not find_host_processes(mark) and find_orphaned_sandboxes() <= before)
    await asyncio.wait([running])


async def test_service_when_its_user_has_further_groups_then_degraded(
    ordinary_home: Path,
):
    service = await start_as_ordinary_user(ordinary_home, groups=(4, 27))
    try:
        status = await service.probe()
        if status.isolation is None:
            pytest.skip(f"needs sandbox: {status.problem}")
        result = await run_python(service, "import os; print(len(os.getgroups()))")
    finally:
        await service.close()

    assert result.stdout in (b"2\n", b"3\n"), result.stderr
    assert any("2 further groups" in text for text in status.isolation.degraded)


@pytest.mark.parametrize("user", ["user of the tests", "ordinary user"])
async def test_machine_when_without_user_namespaces_then_a_problem_and_a_remedy(
    user: str, sandbox_python: Path, request: pytest.FixtureRequest, tmp_path: Path
):
    """Inside a bwrap that disables further user namespaces."""
    if user == "ordinary user":
        home = request.getfixturevalue("ordinary_home")
        where = (home / "python", home / "run", home / "code", ORDINARY_USER)
    else:
        where = (sandbox_python, tmp_path, ROOT, None)
    service = await start_service(*where, inside=without_user_namespaces())
    status = await service.probe()
    await service.close()

    assert not status.available
    assert "namespace" in status.problem
    assert status.remedy


async def _service(
    user: str, python: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> RemoteBackend:
    if user == "ordinary user":
        service = await start_as_ordinary_user(request.getfixturevalue("ordinary_home"))
    else:
        service = await start_service(python, tmp_path, ROOT, None)
    status = await service.probe()
    if not status.available:
        await service.close()
        pytest.skip(f"needs sandbox: {status.problem}")
    return service
