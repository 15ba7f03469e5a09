"""PID 1 of a guest: carries one run between the channel and the stage.

Runs alone as the stage does (`python -I -S`, stage.pyc and collect.pyc beside it). It
reads the job and the program's input from the channel, gives them to the stage, and
sends the stage's report and the program's output back; the frames are those of the
package's own page. Nothing is kept beyond BUFFER bytes in either direction: a program
that writes faster than the channel takes it has to wait, and so has a caller whose
program does not read.

The stage gets a process namespace of its own, in which it is PID 1 as it expects; the
agent is not to be seen from there. It has lost the channel and, where the agent is root,
has another user: the program can't signal, trace or look into the agent. When the stage
is gone the agent tells what is left and returns; the guest is to end then, and with the
agent everything in it. It also returns, at once, when the service goes away.

Arguments: the descriptors to read from and to write to (they may be the same), the user
and group id that the stage gets, or -1 for the agent's own, and the most files that a run
may have, if nothing but the agent counts them.
"""

# As in the stage: pathlib is slow to load.
# ruff: noqa: PTH120, PTH123
import os
import select
import struct
import sys
from collections.abc import Callable
from typing import Any

HEADER = struct.Struct(">cI")
FRAME_BYTES = 32768
BUFFER = 65536

_KEEP = -1
_PAUSE_S = 0.1
_CLONE_NEWPID = 0x20000000
_MS_RDONLY = 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_INSTRUCTION_BYTES = 8
_HIGHEST_FD = 256  # far above what an agent ever opens
_STAGE_FDS = ("job", "report", "stdin", "stdout", "stderr")
_FED = {b"J": "job", b"I": "stdin"}
_TOLD = {"report": b"R", "stdout": b"O", "stderr": b"E"}


def main(arguments: list[str]) -> None:
    source, sink, user, *files = (int(word) for word in arguments)
    serve(source, sink, lambda: become(user), *files)


def serve(source: int, sink: int, enter: Callable[[], None], files: int = 0) -> None:
    """Play one run over the channel and return when all of it was said.

    `enter` is called in the stage's process before anything else happens there. With `files`
    a run that has more is ended. The agent must be allowed to make process namespaces and to
    mount. Raises OSError if it is not.
    """
    count = _file_count(files) if files else None
    ours, stage_pid = _start_stage(enter)
    for fd in (source, sink, *ours.values()):
        os.set_blocking(fd, False)
    inwards = _Inwards(source, {name: ours.pop(name) for name in _FED.values()})
    outwards = _Outwards(sink, ours)
    while not (outwards.over or inwards.ended):
        readable, writable, _ = select.select(
            inwards.readable() + outwards.readable(),
            inwards.writable() + outwards.writable(),
            [],
            count and _PAUSE_S,
        )
        inwards.move(readable, writable)
        outwards.move(readable, writable)
        if count and count.exceeded():
            outwards.tell(b"E", b"sandbox: there were more than %d files\n" % files)
            outwards.end()  # the run ends with the guest
            count = None
    os.waitpid(stage_pid, os.WNOHANG)


def _file_count(most: int) -> Any:
    sys.path.append(os.path.dirname(__file__))
    return __import__("file_count").FileCount(most)


def become(user: int) -> None:
    """Become that user, for good, and lose the calls that no run may make (filter.bpf)."""
    if user != _KEEP:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    with open(os.path.dirname(__file__) + "/filter.bpf", "rb") as file:
        _filter_calls(file.read())


def _filter_calls(program: bytes) -> None:
    """Install it (see seccomp(2)): what runs from here on, and its children, keep to it."""
    ctypes = __import__("ctypes")
    instructions = ctypes.create_string_buffer(program)
    fprog = struct.pack("@HP", len(program) // _INSTRUCTION_BYTES, ctypes.addressof(instructions))
    _call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, fprog, 0, 0)


def _start_stage(enter: Callable[[], None]) -> tuple[dict[str, int], int]:
    """Our ends of the stage's pipes by name, and its process id."""
    ours: dict[str, int] = {}
    theirs: dict[str, int] = {}
    for name in _STAGE_FDS:
        ends = os.pipe()
        theirs[name], ours[name] = ends if name in _FED.values() else ends[::-1]
    _call("unshare", _CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            _be_stage(theirs, enter)
        except BaseException as error:
            os.write(2, f"the stage failed: {error!r}\n".encode(errors="replace"))
        finally:
            os._exit(0)
    for fd in theirs.values():
        os.close(fd)
    return ours, pid


def _be_stage(fds: dict[str, int], enter: Callable[[], None]) -> None:
    _silence(0, 1)
    kept = sorted(fds.values())
    for after, before in zip([2, *kept], [*kept, _HIGHEST_FD], strict=True):
        os.closerange(after + 1, before)
    if os.getpid() != 1:
        # It ends what a run leaves behind by killing every process that it can see.
        raise OSError("there is no process namespace for it")
    _call("mount", b"proc", b"/proc", b"proc", 0, None)
    # The program has the stage's user: where the kernel would let it, it could speak to us
    # in the stage's name through what that one has open.
    _call("mount", b"none", b"/proc/1", b"tmpfs", _MS_RDONLY, b"size=4096,mode=0555")
    enter()
    _silence(2)  # the program may reach what this process has open
    sys.path.append(os.path.dirname(__file__))
    __import__("pidfd").provide()
    __import__("init").main([str(fds[name]) for name in _STAGE_FDS])


def _silence(*fds: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for fd in fds:
        os.dup2(nothing, fd)
    os.close(nothing)


def _call(name: str, *arguments: Any) -> None:
    ctypes = __import__("ctypes")
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


class _Inwards:
    """From the channel to the stage's job and the program's input."""

    def __init__(self, source: int, pipes: dict[str, int]) -> None:
        self.ended = False  # the service is gone
        self._source = source
        self._pipes = pipes
        self._bytes = bytearray()
        self._left = 0  # of the frame that we are in
        self._target = ""

    def readable(self) -> list[int]:
        return [self._source] if len(self._bytes) < BUFFER else []

    def writable(self) -> list[int]:
        wanted = self._left and self._bytes and self._target in self._pipes
        return [self._pipes[self._target]] if wanted else []

    def move(self, readable: list[int], writable: list[int]) -> None:
        if self._source in readable:
            data = _read(self._source, BUFFER)
            self._bytes += data or b""
            self.ended = data == b""
        if self._pipes.get(self._target) in writable:
            self._write()
        self._next()

    def _write(self) -> None:
        try:
            done = os.write(self._pipes[self._target], self._bytes[: self._left])
        except BlockingIOError:
            return
        except BrokenPipeError:  # it does not want to read: the rest is thrown away
            os.close(self._pipes.pop(self._target))
            return
        self._drop(done)

    def _next(self) -> None:
        """Come to where bytes for an open pipe begin, or more have to be read."""
        while self._bytes:
            if self._left and self._target in self._pipes:
                return
            if self._left:
                self._drop(min(self._left, len(self._bytes)))
            elif len(self._bytes) < HEADER.size:
                return
            else:
                kind, self._left = HEADER.unpack_from(self._bytes)
                del self._bytes[: HEADER.size]
                self._target = _FED[kind]
                if not self._left and self._target in self._pipes:
                    os.close(self._pipes.pop(self._target))

    def _drop(self, count: int) -> None:
        del self._bytes[:count]
        self._left -= count


class _Outwards:
    """From the stage's report and the program's output to the channel."""

    def __init__(self, sink: int, pipes: dict[str, int]) -> None:
        self._sink = sink
        self._pipes = pipes
        self._bytes = bytearray()
        self._ending = False

    @property
    def over(self) -> bool:
        """Everything was said, and the channel has taken it."""
        return self._ending and not self._bytes

    def readable(self) -> list[int]:
        return [] if self._ending or len(self._bytes) >= BUFFER else list(self._pipes.values())

    def writable(self) -> list[int]:
        return [self._sink] if self._bytes else []

    def move(self, readable: list[int], writable: list[int]) -> None:
        if self._sink in writable:
            self._send()
        for name, fd in list(self._pipes.items()):
            if fd in readable:
                self._take(name, fd)
        if "report" not in self._pipes and not self._ending and not self._waits():
            self.end()

    def tell(self, kind: bytes, data: bytes) -> None:
        """A frame, of FRAME_BYTES at most."""
        self._bytes += HEADER.pack(kind, len(data)) + data

    def _take(self, name: str, fd: int) -> None:
        data = _read(fd, FRAME_BYTES)
        if data:
            self.tell(_TOLD[name], data)
        elif data == b"":
            os.close(self._pipes.pop(name))

    def end(self) -> None:
        """Nothing is said after this."""
        self._ending = True
        self._bytes += HEADER.pack(b"Z", 0)

    def _waits(self) -> bool:
        """Whether something that the program wrote does, once the stage is gone.

        Its pipes may never end, where something of the program has outlived the stage.
        """
        return bool(select.select(list(self._pipes.values()), [], [], 0)[0])

    def _send(self) -> None:
        try:
            del self._bytes[: os.write(self._sink, self._bytes)]
        except BlockingIOError:
            return


def _read(fd: int, most: int) -> bytes | None:
    """What there is, b"" at the end; None if there is nothing yet after all."""
    try:
        return os.read(fd, most)
    except BlockingIOError:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)
