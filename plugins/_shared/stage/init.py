"""The init process of a sandbox (PID 1): writes the files, runs the program, collects artifacts.

Runs alone (`python -I -S`, with nothing of the product beside it but its sibling modules as
.pyc files) and imports little, since that delays every run. The program is its child, has the
same user id and is hostile. As PID 1 this process ignores signals from inside; its executable
is not readable, which closes its memory and descriptors to others; the system-call filter
refuses ptrace. The server nevertheless treats its report as untrusted bytes: a program that took
over this process could only lie about itself.

Arguments: the numbers of the descriptors job, report, stdin, stdout, stderr.

The job is a series of marshalled values: one dict (see job.py), then one tuple (path,
executable, content) for each file. A sandbox that prewarms a process for its job reads another
dict before these (see prewarm_setup.py).

The report is a series of frames: a kind (1 byte), a length (4 bytes, big-endian), a payload.

    W  the prewarmed process waits for the job
    S  the program starts now
    X  it ended: kind (0 exit, 1 signal, 2 CPU limit, 3 memory limit), number, CPU time in µs,
       maximum RSS in KiB
    A  an artifact: executable (1 byte), length of the path (2 bytes), path, content
    R  an artifact that was refused: path and reason
    F  the run could not be set up: reason
"""

# pathlib alone would double the time to start; marshal reads what the server wrote.
# ruff: noqa: PTH101, PTH103, PTH120, PTH123, PTH208, S102, S103, S108, S302, S606
import marshal
import os
import resource
import select
import struct
import sys

TYPE_CHECKING = False  # importing typing takes longer than Python takes to start
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    SendFrame = Callable[[bytes, bytes], None]
    WaitForJob = Callable[[], dict[str, Any]]

WORKSPACE = "/workspace"

FRAME_HEADER = struct.Struct(">cI")
EXIT_PAYLOAD = struct.Struct(">BIQQ")

EXITED, SIGNALLED, CPU_LIMIT, MEMORY_LIMIT = range(4)

NOT_EXECUTABLE = 126
NOT_FOUND = 127

_TICK_S = 0.05
_MAX_REAPED_AT_ONCE = 256
# A kill by the kernel's CPU limit is recognized from this share of the limit on.
_CPU_TOLERANCE = 0.8
# Descriptors from here on are free while the program's are put in their places.
_SCRATCH_FD = 64
_SIGINT = 2
_SIGKILL = 9
_SIGPIPE = 13
_SIGXCPU = 24
_SIGXFSZ = 25


def main(arguments: list[str]) -> None:
    job_fd, report_fd, *streams = (int(argument) for argument in arguments)
    _signal_module().signal(_SIGINT, _signal_module().SIG_IGN)
    for fd in (job_fd, report_fd):
        os.set_inheritable(fd, False)
    send = _frame_sender(report_fd)
    with open(job_fd, "rb", buffering=65536) as source:
        job: dict[str, Any] = marshal.load(source)
        prewarmed = None
        if "prewarm_server" in job:
            server = load_module(job["prewarm_server"])
            prewarmed = server["PrewarmedProcess"](job, streams, start_program)
            if not prewarmed.wait_ready():
                send(b"F", b"the prewarmed process ended before the job")
                return
            send(b"W", b"")
            job = marshal.load(source)
        try:
            _write_files(source, job["files"])
        except OSError as error:
            send(b"F", f"writing the files: {error.strerror}".encode())
            return
    send(b"S", b"")
    child, used_s = prewarmed.run(job) if prewarmed else (start_program(job, streams), 0.0)
    for fd in streams:
        os.close(fd)
    send(b"X", EXIT_PAYLOAD.pack(*_supervise(child, job, used_s)))
    if job["patterns"]:
        # Every other process is dead, so the files no longer change.
        _import_sibling("collect").collect_artifacts(job, send)


def _frame_sender(fd: int) -> "SendFrame":
    def send(kind: bytes, payload: bytes) -> None:
        rest = memoryview(FRAME_HEADER.pack(kind, len(payload)) + payload)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return send


def _write_files(source: "Any", count: int) -> None:
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


def load_module(code: "Any") -> "dict[str, Any]":
    """The names of a module whose code came with the job."""
    names: dict[str, Any] = {"__name__": "part"}
    exec(code, names)
    return names


# The program


def start_program(
    job: "dict[str, Any]", fds: list[int], wait_for_job: "WaitForJob | None" = None
) -> int:
    """Start the job's program; its process id. The descriptors become its 0, 1, 2 and so on.

    With `wait_for_job` the child, once set up, calls it and runs the job that it returns.
    """
    child = os.fork()
    if child == 0:
        try:
            _set_up_child(job, fds)
            _exec_program(wait_for_job() if wait_for_job else job)
        finally:
            os._exit(NOT_EXECUTABLE)
    return child


def _set_up_child(job: "dict[str, Any]", fds: list[int]) -> None:
    os.setsid()
    for target, fd in enumerate(fds):
        os.dup2(fd, _SCRATCH_FD + target)
    for target in range(len(fds)):
        os.dup2(_SCRATCH_FD + target, target)
    os.closerange(len(fds), _SCRATCH_FD + len(fds))
    try:
        _restrict_files(load_module(job["landlock"]))
    except OSError as error:
        os.write(2, b"sandbox: " + str(error).encode() + b"\n")
        os._exit(NOT_EXECUTABLE)
    for number in (_SIGINT, _SIGPIPE, _SIGXFSZ):  # Python changes how these are handled
        _signal_module().signal(number, _signal_module().SIG_DFL)
    for name, soft, hard in job["rlimits"]:
        resource.setrlimit(name, (soft, hard))


def _restrict_files(landlock: "dict[str, Any]") -> None:
    """Landlock, which holds also where a mount or the user id should fail. Raises OSError."""
    read = landlock["READ"] | landlock["EXECUTE"]
    devices = landlock["USE_DEVICES"] | landlock["EXECUTE"]
    modify = landlock["MODIFY"]
    landlock["restrict"](
        {"/": read, "/dev": devices, "/dev/shm": modify, "/tmp": modify, WORKSPACE: modify},
        # Programs under test connect to themselves; the network namespace leads nowhere else.
        deny_tcp=False,
        # Version 1 would refuse to move files from one folder to another.
        oldest_version=2,
    )


def _exec_program(job: "dict[str, Any]") -> None:
    program = job["argv"][0]
    try:
        os.execvpe(program, job["argv"], job["env"])
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        text = b"sandbox: " + os.fsencode(program) + b": "
        text += b"command not found" if missing else (error.strerror or "").encode()
        os.write(2, text + b"\n")
        os._exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def _signal_module() -> "Any":
    # The module `signal` takes longer to import than everything else here.
    return __import__("_signal")


def _supervise(child: int, job: "dict[str, Any]", used_s: float) -> tuple[int, int, int, int]:
    """Wait for the program, kill what it left running; the values of EXIT_PAYLOAD.

    `used_s` is the CPU time in seconds that was used before the program began.
    """
    status = exceeded = None
    pidfd = os.pidfd_open(child)
    while status is None:
        select.select([pidfd], [], [], _TICK_S)
        status = _reap(child)
        if status is None and exceeded is None:
            exceeded = _exceeded_limit(job, used_s)
            if exceeded is not None:
                os.kill(-1, _SIGKILL)
    os.close(pidfd)
    _kill_remaining()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_us = int((usage.ru_utime + usage.ru_stime) * 1e6)
    verdict = _verdict(status, exceeded, cpu_us, job)
    return *verdict, max(0, cpu_us - int(used_s * 1e6)), usage.ru_maxrss


def _reap(child: int) -> int | None:
    """Reap dead processes, orphans included; the wait status of `child` if it was among them.

    The number is bounded, so that a program whose processes die faster than they are reaped
    can't keep this process from checking its limits.
    """
    for _ in range(_MAX_REAPED_AT_ONCE):
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        if pid == child:
            return status
    return None


def _kill_remaining() -> None:
    while True:
        try:
            os.kill(-1, _SIGKILL)
            os.waitpid(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            # kill() counts zombies: if it finds no process, there is none left to reap.
            return


def _verdict(
    status: int, exceeded: int | None, cpu_us: int, job: "dict[str, Any]"
) -> tuple[int, int]:
    if exceeded is not None:
        return exceeded, 0
    if os.WIFEXITED(status):
        return EXITED, os.WEXITSTATUS(status)
    number = os.WTERMSIG(status)
    # The clock of RLIMIT_CPU is coarse and runs ahead of the one read here.
    by_kernel = number in (_SIGXCPU, _SIGKILL) and cpu_us >= _CPU_TOLERANCE * job["cpu_s"] * 1e6
    return (CPU_LIMIT, 0) if by_kernel else (SIGNALLED, number)


def _exceeded_limit(job: "dict[str, Any]", used_s: float) -> int | None:
    """CPU_LIMIT or MEMORY_LIMIT if all processes of the run together exceed it."""
    times = os.times()
    ticks = (times.children_user + times.children_system) * os.sysconf("SC_CLK_TCK")
    processes = [name for name in os.listdir("/proc") if name.isdigit() and name != "1"]
    stats = {name: _proc_stat(name) for name in processes}
    ticks += sum(int(field) for fields in stats.values() for field in fields[11:15])
    if ticks >= (job["cpu_s"] + used_s) * os.sysconf("SC_CLK_TCK"):
        return CPU_LIMIT
    limit = job["memory_bytes"]  # 0: a control group limits it
    if limit and _import_sibling("memory_watch").exceeds_limit(stats, limit):
        return MEMORY_LIMIT
    return None


def _proc_stat(pid: str) -> list[bytes]:
    """The fields of /proc/PID/stat from the third on; [] if the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return []


def _import_sibling(name: str) -> "Any":
    """A module that not every run needs."""
    folder = os.path.dirname(__file__)
    if folder not in sys.path:
        sys.path.append(folder)
    return __import__(name)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
