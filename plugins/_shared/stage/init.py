"""PID 1 of a run, inside the sandbox: files in, the program, artifacts out.

Runs alone (`python -I -S`, nothing of the product beside it) and starts in
milliseconds, so it imports little. The program is its child, runs under the same
user id and is hostile. As PID 1 this process can't be signalled from inside, its
binary is not readable, so its memory and descriptors are closed to the others,
and the filter refuses ptrace. Even so the outside takes what it says for nothing
more than bytes: a program that took it over could only lie about itself.

Arguments: the descriptors job, report, stdin, stdout, stderr.

The job is a series of marshalled values: one dict (see `job.py`), then one tuple
(path, executable, content) per file. Before them may come another dict, for a sandbox
that is to wait for its job with a process ready (see `waiting.py`). The report is
a series of frames, each a kind (1 byte), a length (4 bytes, big-endian) and that many bytes:

    W  what was to wait for the job does
    S  the program starts now
    X  it ended: kind (0 exit, 1 signal, 2 cpu, 3 memory), number, cpu µs, max rss KiB
    A  an artifact: executable (1 byte), length of the path (2 bytes), path, content
    R  an artifact that was refused: what and why
    F  the run could not be set up: why
"""

# pathlib alone would double the time to start; marshal reads what the service wrote.
# ruff: noqa: PTH101, PTH103, PTH120, PTH123, PTH208, S102, S103, S302, S606
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False  # as in typing, which takes longer to import than Python to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Frame = Callable[[bytes, bytes], None]
    StandBy = Callable[[], dict[str, Any]]

WORKSPACE = "/workspace"

HEADER = struct.Struct(">cI")
ENDED = struct.Struct(">BIQQ")

EXITED, SIGNALLED, CPU, MEMORY = range(4)

NOT_EXECUTABLE = 126
NOT_FOUND = 127

_TICK_S = 0.05
_AT_ONCE = 256
_NEARLY = 0.8  # of the processor time: whoever is ended by its clock then, is so for that
_ABOVE_ALL = 64
_SIGINT = 2
_SIGKILL = 9
_SIGPIPE = 13
_SIGXCPU = 24
_SIGXFSZ = 25


def main(arguments: list[str]) -> None:
    job_fd, report_fd, *streams = (int(word) for word in arguments)
    _signals().signal(_SIGINT, _signals().SIG_IGN)
    for fd in (job_fd, report_fd):
        os.set_inheritable(fd, False)
    report = _reporter(report_fd)
    with open(job_fd, "rb", buffering=65536) as source:
        job: dict[str, Any] = marshal.load(source)
        waiting = None
        if "waiting" in job:
            waiting = part(job["waiting"])["Waiting"](job, streams, start)
            if not waiting.ready():
                report(b"F", b"what was to wait for the job has ended")
                return
            report(b"W", b"")
            job = marshal.load(source)
        try:
            _unpack(source, job["files"])
        except OSError as error:
            report(b"F", f"writing the files: {error.strerror}".encode())
            return
    report(b"S", b"")
    child, before_s = waiting.go_on(job) if waiting else (start(job, streams), 0.0)
    for fd in streams:
        os.close(fd)
    report(b"X", ENDED.pack(*_watch(child, job, before_s)))
    if job["patterns"]:
        # Everything else is dead by now, so nothing changes under its hands.
        _beside("collect").collect(job, report)


def _reporter(fd: int) -> "Frame":
    def send(kind: bytes, payload: bytes) -> None:
        rest = memoryview(HEADER.pack(kind, len(payload)) + payload)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return send


def _unpack(source: "Any", count: int) -> None:
    os.umask(0o022)
    os.chdir(WORKSPACE)
    for _ in range(count):
        path, executable, content = marshal.load(source)
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "xb") as file:
            file.write(content)
        if executable:
            os.chmod(path, 0o755)


def part(code: "Any") -> "dict[str, Any]":
    """The names of a module that came with the job."""
    names: dict[str, Any] = {"__name__": "part"}
    exec(code, names)
    return names


# The program


def start(job: "dict[str, Any]", fds: list[int], stand_by: "StandBy | None" = None) -> int:
    """Its process id. The descriptors become its 0, 1, 2 and so on.

    With `stand_by` it becomes what that returns, as a job, once all else is done.
    """
    child = os.fork()
    if child == 0:
        try:
            _dress(job, fds)
            _become(stand_by() if stand_by else job)
        finally:
            os._exit(NOT_EXECUTABLE)
    return child


def _dress(job: "dict[str, Any]", fds: list[int]) -> None:
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, _ABOVE_ALL + target)
    for target in range(len(fds)):
        os.dup2(_ABOVE_ALL + target, target)
    os.closerange(len(fds), _ABOVE_ALL + len(fds))
    try:
        part(job["landlock"])["restrict"]()
    except OSError as error:
        os.write(2, b"sandbox: " + str(error).encode() + b"\n")
        os._exit(NOT_EXECUTABLE)
    for number in (_SIGINT, _SIGPIPE, _SIGXFSZ):  # those that Python treats in its own way
        _signals().signal(number, _signals().SIG_DFL)
    for name, soft, hard in job["rlimits"]:
        resource.setrlimit(name, (soft, hard))


def _become(job: "dict[str, Any]") -> None:
    program = job["argv"][0]
    try:
        os.execvpe(program, job["argv"], job["env"])
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        text = b"sandbox: " + os.fsencode(program) + b": "
        text += b"command not found" if missing else (error.strerror or "").encode()
        os.write(2, text + b"\n")
        os._exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def _signals() -> "Any":
    # The module `signal` takes longer to import than all the rest of this stage.
    return __import__("_signal")


def _watch(child: int, job: "dict[str, Any]", before_s: float) -> tuple[int, int, int, int]:
    """Wait for the program, end whatever it left behind, and tell how it ended.

    `before_s` of processor time were used before it began.
    """
    status = over = None
    handle = os.pidfd_open(child)
    while status is None:
        select.select([handle], [], [], _TICK_S)
        status = _reap(child)
        if status is None and over is None:
            over = _over_limit(job, before_s)
            if over is not None:
                os.kill(-1, _SIGKILL)
    os.close(handle)
    _end_the_rest()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
    verdict = _verdict(status, over, cpu_us, job)
    return *verdict, max(0, cpu_us - int(before_s * 1e6)), usage.ru_maxrss


def _reap(child: int) -> int | None:
    """Collect the dead, orphans too; the wait status of `child` once it is among them.

    Not endlessly: who dies faster than it is collected must not keep us from the limits.
    """
    for _ in range(_AT_ONCE):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return status
    return None


def _end_the_rest() -> None:
    while True:
        try:
            os.kill(-1, _SIGKILL)
            os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            # Zombies count as alive for kill: when nobody is there, nobody is left to wait for.
            return


def _verdict(status: int, over: int | None, cpu_us: int, job: "dict[str, Any]") -> tuple[int, int]:
    if over is not None:
        return over, 0
    if os.WIFEXITED(status):
        return EXITED, os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    # The clock of the kernel's own limit is coarse, and runs ahead of this one.
    by_kernel = number in (_SIGXCPU, _SIGKILL) and cpu_us >= _NEARLY * job["cpu_s"] * 1e6
    return (CPU, 0) if by_kernel else (SIGNALLED, number)


def _over_limit(job: "dict[str, Any]", before_s: float) -> int | None:
    """Whether the run as a whole used more than it may: its CPU time, its memory."""
    spent = os.times()
    ticks = (spent.children_user + spent.children_system) * os.sysconf("SC_CLK_TCK")
    processes = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    stats = {name: _stat(name) for name in processes}
    ticks += sum(int(field) for fields in stats.values() for field in fields[11:15])
    if ticks >= (job["cpu_s"] + before_s) * os.sysconf("SC_CLK_TCK"):
        return CPU
    limit = job["memory_bytes"]  # 0: the kernel counts it
    if limit and _beside("memory").over(stats, limit):
        return MEMORY
    return None


def _stat(pid: str) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; [] if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _beside(name: str) -> "Any":
    """A part of the stage that not every run needs."""
    folder = os.path.dirname(__file__)
    if folder not in sys.path:
        sys.path.append(folder)
    return __import__(name)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
