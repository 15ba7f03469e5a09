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
dict before these (see prewarm_setup.py). If the workspace outlives the run, its archive (see
appliance/spi/workspace_archive.py) comes between the dict and the files; the program is then ended
when the descriptor of the job is closed, so that its workspace can still be saved.

The report is a series of frames: a kind (1 byte), a length (4 bytes, big-endian), a payload.

    W  the prewarmed process waits for the job
    S  the program, or the build step before it, starts now
    B  the build step ended: the values of X, the size of the stdout that follows (4 bytes), the
       start of its stdout, the start of its stderr; the program starts now if it exited with 0
    X  it ended: kind (0 exit, 1 signal, 2 CPU limit, 3 memory limit, 4 the job was closed),
       number, CPU time in µs, maximum RSS in KiB
    A  an artifact: executable (1 byte), length of the path (2 bytes), path, content
    R  an artifact that was refused: path and reason
    K  a piece of the workspace's archive, cut anywhere
    N  an entry of the workspace that is not in the archive: path and reason
    Y  the archive is complete: why it is of no use, or nothing
    F  the run could not be set up: reason
"""

# pathlib alone would double the time to start; marshal reads what the server wrote.
# ruff: noqa: PTH101, PTH103, PTH108, PTH120, PTH123, PTH208, S102, S103, S108, S302, S606
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
    Ending = tuple[int, int, int, int]  # the values of EXIT_PAYLOAD

WORKSPACE = "/workspace"

FRAME_HEADER = struct.Struct(">cI")
EXIT_PAYLOAD = struct.Struct(">BIQQ")
BUILD_HEADER = struct.Struct(">BIQQI")
MAX_BUILD_OUTPUT = 65536
"""Bytes of each stream of a build step that are reported."""

EXITED, SIGNALLED, CPU_LIMIT, MEMORY_LIMIT, JOB_CLOSED = range(5)

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
    source = open(job_fd, "rb", buffering=65536)  # noqa: SIM115 - see _receive_files
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
        _receive_files(source, job)
    except (OSError, ValueError) as error:
        send(b"F", f"writing the files: {getattr(error, 'strerror', error)}".encode())
        return
    send(b"S", b"")
    if job["build"] and prewarmed:  # it would end with the build step's processes
        prewarmed.discard()
        prewarmed = None
    end = _run_build(job, streams, send) if job["build"] else None
    if end is None or end[:2] == (EXITED, 0):
        end = _run_program(job, streams, prewarmed)
    send(b"X", EXIT_PAYLOAD.pack(*end))
    # Every other process is dead, so the files no longer change.
    if job["patterns"]:
        _import_sibling("collect").collect_artifacts(job, send)
    if job["keep_workspace"]:
        _import_sibling("workspace").save_archive(job, send)


def _frame_sender(fd: int) -> "SendFrame":
    def send(kind: bytes, payload: bytes) -> None:
        rest = memoryview(FRAME_HEADER.pack(kind, len(payload)) + payload)
        while rest:
            rest = rest[os.write(fd, rest) :]

    return send


def _receive_files(source: "Any", job: "dict[str, Any]") -> None:
    """Write the workspace. job["stop"] is then the descriptor of the job, if that is kept open."""
    os.umask(0o022)
    os.chdir(WORKSPACE)
    keep = job["keep_workspace"]
    if job["archive"]:
        _import_sibling("workspace").load_archive(source.read)
    for _ in range(job["files"]):
        path, executable, content = marshal.load(source)
        if job["replace"] and os.path.lexists(path):
            os.unlink(path)
        _write_file(path, executable, content)
    job["stop"] = [source.fileno()] if keep else []
    if not keep:
        source.close()


def _write_file(path: str, executable: bool, content: bytes) -> None:
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


def _run_build(job: "dict[str, Any]", streams: list[int], send: "SendFrame") -> "Ending":
    """Run the build step and report it. If it fails, its output becomes the program's."""
    step = {**job, **job["build"]}
    null, *logs = os.open("/dev/null", os.O_RDONLY), _open_nameless(), _open_nameless()
    used_s = _children_cpu_s()
    end = _supervise(start_program(step, [null, *logs]), step, used_s)
    out, err = (os.pread(log, MAX_BUILD_OUTPUT, 0) for log in logs)
    send(b"B", BUILD_HEADER.pack(*end, len(out)) + out + err)
    for log, stream in zip(logs, streams[1:], strict=True):
        if end[:2] != (EXITED, 0):
            _copy(log, stream)
    for fd in (null, *logs):
        os.close(fd)
    return end


def _open_nameless() -> int:
    """A file without a name. Call it before any program runs, which could take the name."""
    path = "/tmp/.build"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    os.unlink(path)
    return fd


def _copy(log: int, stream: int) -> None:
    os.lseek(log, 0, os.SEEK_SET)
    while data := os.read(log, MAX_BUILD_OUTPUT):
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(stream, rest) :]


def _run_program(job: "dict[str, Any]", streams: list[int], prewarmed: "Any") -> "Ending":
    if prewarmed:
        child, used_s = prewarmed.run(job)
    else:
        used_s = _children_cpu_s()
        child = start_program(job, streams)
    for fd in streams:
        os.close(fd)
    return _supervise(child, job, used_s)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


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
        text += _describe_missing(program) if missing else (error.strerror or "").encode()
        os.write(2, text + b"\n")
        os._exit(NOT_FOUND if missing else NOT_EXECUTABLE)


def _describe_missing(program: "str | bytes") -> bytes:
    """What was not found: the program, or the interpreter that its first line names."""
    try:
        with open(program, "rb") as file:
            line = file.read(256).partition(b"\n")[0]
    except OSError:
        return b"command not found"
    if not line.startswith(b"#!"):
        return b"its loader was not found"
    words = line[2:].split()
    text = b"interpreter not found: " + (words[0] if words else b"none is named")
    if line.endswith(b"\r"):
        text += b" (the first line ends with CR LF: save the file with LF line ends)"
    return text


def _signal_module() -> "Any":
    # The module `signal` takes longer to import than everything else here.
    return __import__("_signal")


def _supervise(child: int, job: "dict[str, Any]", used_s: float) -> "Ending":
    """Wait for the program, kill what it left running; the values of EXIT_PAYLOAD.

    `used_s` is the CPU time in seconds that was used before the program began.
    """
    status = exceeded = None
    max_rss_kib = 0
    pidfd = os.pidfd_open(child)
    watched = [pidfd, *job["stop"]]
    while status is None:
        ready, _, _ = select.select(watched, [], [], _TICK_S)
        status, rss_kib = _reap(child)
        max_rss_kib = max(max_rss_kib, rss_kib)
        if status is None and exceeded is None:
            closed = any(fd in ready for fd in job["stop"])
            exceeded = JOB_CLOSED if closed else _exceeded_limit(job, used_s)
            if exceeded is not None:
                watched = [pidfd]
                os.kill(-1, _SIGKILL)
    os.close(pidfd)
    max_rss_kib = max(max_rss_kib, _kill_remaining())
    cpu_us = max(0, int((_children_cpu_s() - used_s) * 1e6))
    return *_verdict(status, exceeded, cpu_us, job), cpu_us, max_rss_kib


def _reap(child: int) -> tuple[int | None, int]:
    """Reap dead processes, orphans included.

    Returns the wait status of `child` if it was among them, and the maximum RSS of one in KiB.
    The number is bounded, so that a program whose processes die faster than they are reaped
    can't keep this process from checking its limits.
    """
    max_rss_kib = 0
    for _ in range(_MAX_REAPED_AT_ONCE):
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == 0:
            break
        max_rss_kib = max(max_rss_kib, usage.ru_maxrss)
        if pid == child:
            return status, max_rss_kib
    return None, max_rss_kib


def _kill_remaining() -> int:
    """Kill and reap all other processes; the maximum RSS of one in KiB."""
    max_rss_kib = 0
    while True:
        try:
            os.kill(-1, _SIGKILL)
            _, _, usage = os.wait4(-1, 0)
        except (ProcessLookupError, ChildProcessError):
            # kill() counts zombies: if it finds no process, there is none left to reap.
            return max_rss_kib
        max_rss_kib = max(max_rss_kib, usage.ru_maxrss)


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
