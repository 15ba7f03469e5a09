"""Programs that use up resources: the server goes on.

After each of them nothing is left on the machine, and the next run works.
"""

import json

import pytest

from tests.support.escape_server import Target
from tests.support.escape_traces import TraceMonitor

pytest_plugins = ["tests.support.escape_fixtures"]

LIMITS = {"cpu_s": 1, "memory_bytes": 128 << 20, "processes": 32}
SHORT, LONG = {**LIMITS, "wall_s": 1}, {**LIMITS, "wall_s": 10}


# name: (program, why it may end, what it says if it ends by itself)
FAULTS: dict[str, tuple[str, set[str], str]] = {
    "fork bomb": (
        "while True:\n  try: os.fork()\n  except OSError: pass",
        {"wall_time", "cpu_time", "memory"}, ""),
    "fork bomb of daemons": (
        "while True:\n  try: os.fork() or os.setsid()\n  except OSError: pass",
        {"wall_time", "cpu_time", "memory"}, ""),
    "fork bomb that leaves at once": (
        "if os.fork() == 0:\n  while True:\n    try: os.fork()\n    except OSError: pass",
        {"exited"}, ""),
    "threads without end": (
        "import threading\nn = 0\ntry:\n  while n < 500:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); n += 1\n"
        "except RuntimeError: print(n <= 32, flush=True)\nos._exit(0)",
        {"exited"}, "True"),
    "orphans without end": (
        "for n in range(300):\n  if os.fork() == 0:\n    os.fork(); os._exit(0)\n  os.wait()",
        {"exited"}, ""),
    "memory in one process": (
        "blocks = []\ntry:\n  while True: blocks.append(bytearray(1 << 20))\n"
        "except MemoryError: print(len(blocks) <= 128)",
        {"exited", "memory"}, "True"),
    "memory in many processes": (
        "for _ in range(6):\n  if os.fork() == 0: break\n"
        "block = bytearray(os.urandom(1 << 20) * 40)\ntime.sleep(60)",
        {"memory"}, ""),
    "memory that is shared": (
        "import mmap\nblocks = []\nwhile True:\n"
        "  blocks.append(mmap.mmap(-1, 8 << 20)); blocks[-1].write(b'x' * (8 << 20))",
        {"memory", "signalled"}, ""),
    "memory in files of none": (
        "try:\n  for n in range(20):\n"
        "    os.sendfile(os.memfd_create('x'), os.open('/dev/zero', 0), 0, 64 << 20)\n"
        "except PermissionError: print(True)",
        {"exited", "memory"}, "True"),
    "memory in semaphores": (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        "print(all(libc.semget(0, 32000, 0o600) < 0 for _ in range(100)))",
        {"exited", "memory"}, "True"),
    "processors": (
        "for _ in range(3): os.fork()\nwhile True: pass",
        {"cpu_time"}, ""),
    "processors, in threads": (
        "import hashlib, threading\nblock = bytes(1 << 20)\ndef burn():\n"
        "  while True: hashlib.sha256(block)\n"
        "for _ in range(4): threading.Thread(target=burn).start()",
        {"cpu_time"}, ""),
    "processors, by children that come and go": (
        "while True:\n  if os.fork() == 0:\n    sum(range(2000000)); os._exit(0)\n  os.wait()",
        {"cpu_time"}, ""),
    "output": ("while True: os.write(1, bytes(65536))", {"output"}, ""),
    "output as error": ("while True: os.write(2, bytes(65536))", {"output"}, ""),
    "output of many": (
        "for _ in range(3): os.fork()\nwhile True: os.write(1, bytes(65536))", {"output"}, ""),
    "ignored signals": (
        "import signal\nfor n in range(1, 65):\n"
        "  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n"
        "time.sleep(60)",
        {"wall_time"}, ""),
    "a stopped process": ("os.kill(os.getpid(), 19)", {"wall_time"}, ""),
    "closed outputs": ("os.close(1); os.close(2); os.close(0); time.sleep(60)", {"wall_time"}, ""),
    "a daemon": (
        "if os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0: time.sleep(60)\n  os._exit(0)\n"
        "os.wait(); print(True)",
        {"exited"}, "True"),
    "a daemon that has closed all": (
        "if os.fork() == 0:\n  os.setsid(); os.closerange(0, 64)\n"
        "  if os.fork() == 0: time.sleep(60)\n  os._exit(0)\n"
        "os.wait(); print(True)",
        {"exited"}, "True"),
    "a child that has stopped its parent": (
        "if os.fork() == 0:\n  os.kill(os.getppid(), 19); time.sleep(60)\ntime.sleep(60)",
        {"wall_time"}, ""),
    "signals to all": (
        "if os.fork() == 0: time.sleep(60)\nos.kill(-1, 9); os.wait(); print(True)",
        {"exited"}, "True"),
}  # fmt: skip

# What a program can do to PID 1, which has its user id.
DISTURBANCES = {
    "all signals": "for n in range(1, 65):\n  try: os.kill(1, n)\n  except OSError: pass",
    "last of all": "os.setpriority(os.PRIO_PROCESS, 1, 19)\nos.sched_setscheduler(1, "
                   "os.SCHED_IDLE, os.sched_param(0))",
    "no files": "resource.prlimit(1, resource.RLIMIT_NOFILE, (0, 0))",
    "no processes": "resource.prlimit(1, resource.RLIMIT_NPROC, (0, 0))",
    "no memory": "resource.prlimit(1, resource.RLIMIT_AS, (4096, 4096))",
    "no size": "resource.prlimit(1, resource.RLIMIT_FSIZE, (0, 0))",
    "no time": "resource.prlimit(1, resource.RLIMIT_CPU, (0, 0))",
}  # fmt: skip


@pytest.mark.parametrize("name", list(FAULTS))
def test_program_when_it_wants_too_much_then_ended_for_the_right_reason(
    name: str, target: Target, watch: TraceMonitor
) -> None:
    code, reasons, output = FAULTS[name]
    with watch.assert_nothing_remains():
        limits = SHORT if "wall_time" in reasons else LONG
        answer = target.python(f"import os, time\n{code}", limits=limits)

    assert answer["reason"] in reasons, answer
    if answer["reason"] == "exited":
        assert (answer["stdout"].strip(), answer["exit_code"]) == (output, 0), answer
    assert_works(target)


def assert_works(target: Target) -> None:
    assert target.python("print('still here')")["stdout"] == "still here\n"


@pytest.mark.parametrize("name", list(DISTURBANCES))
def test_program_when_it_disturbs_its_watcher_then_only_its_own_run_suffers(
    name: str, target: Target, watch: TraceMonitor
) -> None:
    code = f"import os, resource, time\n{DISTURBANCES[name]}\nprint('done', flush=True)\n"
    with watch.assert_nothing_remains():
        answer = target.python(code + "time.sleep(60)", limits=SHORT, artifacts=["*"])
    if answer["stdout"] != "done\n":
        assert "Permission" in answer["stderr"], answer

    assert answer["reason"] in ("wall_time", "cpu_time", "signalled", "exited", "memory"), answer
    assert_works(target)


FILL = """
import json, os
sizes = {}
for place in ('/workspace', '/tmp', '/dev/shm'):
    with open(place + '/big', 'wb', buffering=0) as file:
        try:
            for n in range(200): file.write(bytes(1 << 20))
        except OSError as error:
            sizes[place] = (n, error.errno)
    os.unlink(place + '/big')
print(json.dumps(sizes))
"""


def test_disk_when_it_is_full_then_the_program_is_told(target: Target, watch: TraceMonitor) -> None:
    with watch.assert_nothing_remains():
        answer = target.python(FILL, limits={"workspace_bytes": 16 << 20, "wall_s": 9})

    places = json.loads(answer["stdout"])
    assert places.keys() == {"/workspace", "/tmp", "/dev/shm"}, answer
    assert places["/workspace"][0] <= 16
    # The largest of the sizes is the limit of a single file as well (EFBIG).
    assert all(n <= 32 and number in (27, 28) for n, number in places.values())
    assert_works(target)


@pytest.mark.parametrize("place", ["/workspace", "/tmp", "/dev/shm"])
def test_files_when_too_many_then_the_program_is_told(
    place: str, target: Target, watch: TraceMonitor
) -> None:
    code = f"""
import errno, os
made = 0
try:
    for made in range(20000): os.close(os.open('{place}/' + str(made), os.O_CREAT))
except OSError as error: print(made, errno.errorcode[error.errno])
else: print(made, 'unlimited')
"""
    with watch.assert_nothing_remains():
        answer = target.python(code, limits={"wall_s": 9})

    made, how = answer["stdout"].split()
    if "inode_limit" in answer["isolation"]["layers"]:
        assert (how, int(made) <= 4096) == ("ENOSPC", True)
    else:
        assert any("number of files" in lack for lack in answer["isolation"]["degraded"])
    assert_works(target)


TRICKS = """
import os, socket
for name in ('passwd', 'shadow'): os.symlink('/etc/' + name, name + '.txt')
os.symlink('/proc/1/environ', 'environ.txt'); os.symlink('/', 'root')
open('good.txt', 'w').write('good'); os.symlink('good.txt', 'link.txt')
open('first.txt', 'w').write('two names'); os.link('first.txt', 'second.txt')
os.mkfifo('fifo.txt'); os.mkdir('folder.txt')
socket.socket(1).bind('socket.txt')
fd = os.open('sparse.txt', os.O_CREAT | os.O_WRONLY); os.ftruncate(fd, 60 << 20)
os.makedirs('a/b'); os.symlink('../..', 'a/b/up.txt'); open('a/b/deep.txt', 'w').write('deep')
open(b'\\xff.txt', 'w'); open('new\\nline.txt', 'w').write('odd'); open(' .txt', 'w').write('space')
open('\\u202etxt.txt', 'w').write('turned')
open('closed.txt', 'w').write('mode 0'); os.chmod('closed.txt', 0)
os.mkdir('hidden'); open('hidden/in.txt', 'w').write('x'); os.chmod('hidden', 0)
path = b'.'
for _ in range(60):
    path += b'/d'; os.mkdir(path)
open(path + b'/low.txt', 'w').write('low')
"""
# Names that lead out, or that can't be told, and things that are no files.
NEVER = {"passwd.txt", "shadow.txt", "environ.txt", "link.txt", "first.txt", "second.txt",
         "fifo.txt", "socket.txt", "sparse.txt", "a/b/up.txt"}  # fmt: skip


def test_artifacts_when_the_program_plays_tricks_then_only_its_own_files_come_out(
    target: Target, watch: TraceMonitor
) -> None:
    patterns = ["**/*.txt", "*.txt", "root/**", "root/etc/*", "../**", "/etc/*", "a/b/up.txt/**"]
    with watch.assert_nothing_remains():
        answer = target.python(TRICKS, artifacts=patterns)

    assert answer["ok"], answer
    found = {each["path"]: each["content"] for each in answer["artifacts"]}
    assert found.pop("closed.txt", "mode 0") == "mode 0"
    assert found == {"good.txt": "good", "a/b/deep.txt": "deep", "new\nline.txt": "odd",
                     " .txt": "space", "\u202etxt.txt": "turned"}  # fmt: skip
    refused = {line.rpartition(": ")[0] for line in answer["artifacts_refused"]}
    assert refused >= NEVER


def test_artifacts_when_swapped_to_the_last_moment_then_still_the_programs_own(
    target: Target, watch: TraceMonitor
) -> None:
    code = """
import os
open('file', 'w').write('mine'); os.symlink('/etc/passwd', 'link')
os.mkdir('folder'); open('folder/passwd', 'w').write('mine'); os.symlink('/etc', 'etc')
if os.fork():
    os.read(0, 1); os._exit(0)
os.setsid()
while True:
    for one, other in (('file', 'link'), ('folder', 'etc')):
        os.rename(one, 'third'); os.rename(other, one); os.rename('third', other)
"""
    for _ in range(3):
        with watch.assert_nothing_remains():
            answer = target.python(code, artifacts=["*", "folder/*", "etc/*"])
        assert {each["content"] for each in answer["artifacts"]} <= {"mine"}, answer


def test_artifacts_when_too_many_or_too_large_then_the_rest_is_named(
    target: Target, watch: TraceMonitor
) -> None:
    code = (
        "for n in range(40): open(f'{n:02}', 'w').write('x' * 1000)\n"
        "open('large', 'w').write('x' * 50_000)"
    )
    for limits in ({"artifact_files": 9}, {"artifact_bytes": 9_500}):
        with watch.assert_nothing_remains():
            answer = target.python(code, artifacts=["*"], limits=limits)
        assert [each["path"] for each in answer["artifacts"]] == [f"{n:02}" for n in range(9)]
        assert len(answer["artifacts_refused"]) == 32
        assert "large: larger than the limit" in answer["artifacts_refused"] or "files" in str(
            answer["artifacts_refused"]
        )


def test_artifacts_when_there_are_endless_folders_then_the_run_ends(
    target: Target, watch: TraceMonitor
) -> None:
    code = """
import os
for n in range(3000):
    try: os.makedirs(f'{n % 50}/' * 20 + str(n))
    except OSError: break
"""
    with watch.assert_nothing_remains():
        answer = target.python(code, artifacts=["**/*"], limits={"wall_s": 9})

    assert answer["artifacts"] == []
    assert_works(target)
