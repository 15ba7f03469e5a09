"""The agent, PID 1 of a guest: carries one run between the channel and the init process.

Runs alone as the init process does (`python -I -S`, with init.pyc and its siblings beside it). It
reads the job and the program's input from the channel and passes them to the init process, and
sends the report and the program's output back, as the frames that the package's docstring
describes. It buffers at most BUFFER_BYTES in either direction: a program that writes faster than
the channel takes it has to wait, and so has a caller whose program does not read.

The init process gets a PID namespace of its own, in which it is PID 1 as it expects and from
which the agent is invisible. It does not inherit the channel and, where the agent is root, runs as
another user: the program can't signal, trace or read the agent. Once the init process is gone, the
agent sends what is left and returns; the guest is to end then, and everything in it. The agent also
returns as soon as the server closes the channel.

Arguments: the descriptors to read from and to write to (may be the same), the user and group id
for the init process (-1: the agent's own), and optionally the number of files that a run may have,
if nothing but the agent limits it.
"""

# As in the init process: pathlib is slow to load.
# ruff: noqa: PTH120, PTH123
import ctypes
import os
import select
import struct
import sys
from collections.abc import Callable
from typing import Any

TYPE_CHECKING = False
if TYPE_CHECKING or __package__:
    from plugins._shared import linux
else:  # in a guest, where its siblings lie beside it
    sys.path.append(os.path.dirname(__file__))
    linux = __import__("linux")

FRAME_HEADER = struct.Struct(">cI")
FRAME_BYTES = 32768
BUFFER_BYTES = 65536

_KEEP_USER = -1
_PAUSE_S = 0.1
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_INSTRUCTION_BYTES = 8
_HIGHEST_FD = 256  # far above what an agent ever opens
_INIT_FDS = ("job", "report", "stdin", "stdout", "stderr")
_PROGRAM_STREAMS = ("stdin", "stdout", "stderr")
_INBOUND = {b"J": "job", b"I": "stdin"}
_OUTBOUND = {"report": b"R", "stdout": b"O", "stderr": b"E"}


def main(arguments: list[str]) -> None:
    source, sink, user, *max_files = (int(argument) for argument in arguments)
    serve_run(source, sink, user, lambda: drop_privileges(user), *max_files)


def serve_run(
    source: int, sink: int, user: int, enter: Callable[[], None], max_files: int = 0
) -> None:
    """Carry one run over the channel; return when everything is sent.

    `enter` is called in the process that becomes the init process, before anything else; `user`
    is the user id that the process then has (-1: the agent's own). With
    `max_files` a run that has more files is ended. Raises OSError if the agent may not create PID
    namespaces or mount.
    """
    counter = _file_counter(max_files) if max_files else None
    pipes, init_pid = _start_init(user, enter)
    for fd in (source, sink, *pipes.values()):
        os.set_blocking(fd, False)
    inbound = _Inbound(source, {name: pipes.pop(name) for name in _INBOUND.values()})
    outbound = _Outbound(sink, pipes)
    while not (outbound.finished or inbound.closed):
        readable, writable, _ = select.select(
            inbound.readable() + outbound.readable(),
            inbound.writable() + outbound.writable(),
            [],
            counter and _PAUSE_S,
        )
        inbound.transfer(readable, writable)
        outbound.transfer(readable, writable)
        if counter and counter.exceeded():
            outbound.send(b"E", b"sandbox: there were more than %d files\n" % max_files)
            outbound.finish()  # the run ends with the guest
            counter = None
    os.waitpid(init_pid, os.WNOHANG)


def _file_counter(max_files: int) -> Any:
    return __import__("file_count").FileCounter(max_files)


def drop_privileges(user: int) -> None:
    """Become that user for good, and install the system-call filter of runs (filter.bpf)."""
    if user != _KEEP_USER:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    linux.set_no_new_privileges()
    with open(os.path.dirname(__file__) + "/filter.bpf", "rb") as file:
        _install_filter(file.read())


def _install_filter(program: bytes) -> None:
    """Install it for this process and its children (see seccomp(2))."""
    instructions = ctypes.create_string_buffer(program)
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(instructions))
    linux.call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0)


def _start_init(user: int, enter: Callable[[], None]) -> tuple[dict[str, int], int]:
    """The agent's ends of the init process's pipes by name, and its process id."""
    ours: dict[str, int] = {}
    theirs: dict[str, int] = {}
    for name in _INIT_FDS:
        ends = _make_pipe(user if name in _PROGRAM_STREAMS else _KEEP_USER)
        theirs[name], ours[name] = ends if name in _INBOUND.values() else ends[::-1]
    linux.unshare(linux.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            _run_init(theirs, enter)
        except BaseException as error:
            os.write(2, f"the init process failed: {error!r}\n".encode(errors="replace"))
        finally:
            os._exit(0)
    for fd in theirs.values():
        os.close(fd)
    return ours, pid


def _make_pipe(user: int) -> tuple[int, int]:
    """A pipe that belongs to this user, who can then open it as /dev/stdin and the like.

    Created as that user, since gVisor's kernel lets nobody change the owner or mode of a pipe.
    """
    own = os.geteuid()
    if user != _KEEP_USER:
        os.seteuid(user)
    try:
        return os.pipe()
    finally:
        os.seteuid(own)


def _run_init(fds: dict[str, int], enter: Callable[[], None]) -> None:
    _redirect_to_null(0, 1)
    kept = sorted(fds.values())
    for after, before in zip([2, *kept], [*kept, _HIGHEST_FD], strict=True):
        os.closerange(after + 1, before)
    if os.getpid() != 1:
        # At the end of a run it kills every process that it can see.
        raise OSError("the init process has no PID namespace of its own")
    linux.mount("proc", "/proc", "proc", 0)
    # The program has the init process's user id: where the kernel lets it open that process's
    # descriptors, it could write to the agent in its name.
    linux.mount("none", "/proc/1", "tmpfs", linux.MS_RDONLY, "size=4096,mode=0555")
    enter()
    _redirect_to_null(2)  # the program may reach what this process has open
    __import__("pidfd").provide()
    __import__("init").main([str(fds[name]) for name in _INIT_FDS])


def _redirect_to_null(*fds: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(null, fd)
    os.close(null)


class _Inbound:
    """From the channel to the init process's job and the program's input."""

    def __init__(self, source: int, pipes: dict[str, int]) -> None:
        self.closed = False  # by the server
        self._source = source
        self._pipes = pipes
        self._buffer = bytearray()
        self._frame_left = 0  # bytes of the current frame
        self._target = ""

    def readable(self) -> list[int]:
        return [self._source] if len(self._buffer) < BUFFER_BYTES else []

    def writable(self) -> list[int]:
        pending = self._frame_left and self._buffer and self._target in self._pipes
        return [self._pipes[self._target]] if pending else []

    def transfer(self, readable: list[int], writable: list[int]) -> None:
        if self._source in readable:
            data = _read(self._source, BUFFER_BYTES)
            self._buffer += data or b""
            self.closed = data == b""
        if self._pipes.get(self._target) in writable:
            self._write()
        self._advance()

    def _write(self) -> None:
        try:
            count = os.write(self._pipes[self._target], self._buffer[: self._frame_left])
        except BlockingIOError:
            return
        except BrokenPipeError:  # nobody reads it: the rest is dropped
            os.close(self._pipes.pop(self._target))
            return
        self._drop(count)

    def _advance(self) -> None:
        """Go on to the next bytes for an open pipe, or until more have to be read."""
        while self._buffer:
            if self._frame_left and self._target in self._pipes:
                return
            if self._frame_left:
                self._drop(min(self._frame_left, len(self._buffer)))
            elif len(self._buffer) < FRAME_HEADER.size:
                return
            else:
                kind, self._frame_left = FRAME_HEADER.unpack_from(self._buffer)
                del self._buffer[: FRAME_HEADER.size]
                self._target = _INBOUND[kind]
                if not self._frame_left and self._target in self._pipes:
                    os.close(self._pipes.pop(self._target))

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._frame_left -= count


class _Outbound:
    """From the init process's report and the program's output to the channel."""

    def __init__(self, sink: int, pipes: dict[str, int]) -> None:
        self._sink = sink
        self._pipes = pipes
        self._buffer = bytearray()
        self._ending = False

    @property
    def finished(self) -> bool:
        """Whether the last frame is sent."""
        return self._ending and not self._buffer

    def readable(self) -> list[int]:
        full = len(self._buffer) >= BUFFER_BYTES
        return [] if self._ending or full else list(self._pipes.values())

    def writable(self) -> list[int]:
        return [self._sink] if self._buffer else []

    def transfer(self, readable: list[int], writable: list[int]) -> None:
        if self._sink in writable:
            self._write()
        for name, fd in list(self._pipes.items()):
            if fd in readable:
                self._read_pipe(name, fd)
        if "report" not in self._pipes and not self._ending and not self._has_pending_output():
            self.finish()

    def send(self, kind: bytes, data: bytes) -> None:
        """A frame with FRAME_BYTES of data at most."""
        self._buffer += FRAME_HEADER.pack(kind, len(data)) + data

    def finish(self) -> None:
        """The last frame."""
        self._ending = True
        self._buffer += FRAME_HEADER.pack(b"Z", 0)

    def _read_pipe(self, name: str, fd: int) -> None:
        data = _read(fd, FRAME_BYTES)
        if data:
            self.send(_OUTBOUND[name], data)
        elif data == b"":
            os.close(self._pipes.pop(name))

    def _has_pending_output(self) -> bool:
        """Whether the pipes hold output, once the init process is gone.

        They may never end, if a process of the program outlives the init process.
        """
        return bool(select.select(list(self._pipes.values()), [], [], 0)[0])

    def _write(self) -> None:
        try:
            del self._buffer[: os.write(self._sink, self._buffer)]
        except BlockingIOError:
            return


def _read(fd: int, max_bytes: int) -> bytes | None:
    """What is there, b"" at the end; None if nothing is there yet."""
    try:
        return os.read(fd, max_bytes)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
