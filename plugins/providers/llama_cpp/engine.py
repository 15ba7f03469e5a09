"""The engine process: one model, one context, one decode loop.

Started by the supervisor with the path of a Unix socket. It ends when the server ends,
closes the socket, or llama.cpp gives up.
"""

import ctypes
import os
import queue
import signal
import socket
import sys
import time
from typing import Any

from plugins.providers.llama_cpp import machine, sizing
from plugins.providers.llama_cpp.advice import last_errors
from plugins.providers.llama_cpp.batching import Batcher, EngineError
from plugins.providers.llama_cpp.intake import Intake, receive
from plugins.providers.llama_cpp.library import LibraryError, load
from plugins.providers.llama_cpp.native import Batch, Context, Model, NativeError
from plugins.providers.llama_cpp.nativelog import ErrorLog
from plugins.providers.llama_cpp.outbox import Outbox
from plugins.providers.llama_cpp.prompt import PromptMaker
from plugins.providers.llama_cpp.protocol import (
    Broken,
    Configure,
    Done,
    FromEngine,
    Progress,
    Ready,
    Refused,
)
from plugins.providers.llama_cpp.room import Room
from plugins.providers.llama_cpp.sequences import Job

_PR_SET_PDEATHSIG = 1
_BEAT_SECONDS = 1.0
_USAGE = 2
_BATCH_STEP = 32


def main(argv: list[str]) -> int:
    """The process; `argv` is the socket's path."""
    if len(argv) != 1:
        print("usage: engine SOCKET", file=sys.stderr)
        return _USAGE
    _die_with_server()
    _tune_libraries()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(argv[0])
        configure = receive(connection)
        if not isinstance(configure, Configure):
            return _USAGE
        return _serve(connection, configure)


def _serve(connection: socket.socket, configure: Configure) -> int:
    outbox, log = Outbox(connection), ErrorLog()
    try:
        engine = Engine(connection, outbox, configure, log)
    except (LibraryError, NativeError) as error:
        said = last_errors(log.text)
        outbox.put(Broken(f"{error}" + (f" ({said})" if said else "")))
        outbox.drain()
        return 1
    try:
        engine.run()
    except EngineError as error:
        print(error, file=sys.stderr, flush=True)
        outbox.drain()
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 1


class Engine:
    """A loaded model and the loop that serves it."""

    def __init__(
        self, connection: socket.socket, outbox: Outbox, configure: Configure, log: ErrorLog
    ) -> None:
        """Loads everything. Raises LibraryError or NativeError with the reason."""
        free = machine.available_bytes()
        lib = load()
        log.install(lib)
        lib.llama_backend_init()
        model = Model(lib, configure.path)
        if not model.generates_text:
            raise NativeError("this model does not generate text (an encoder or diffusion model)")
        room = _room(model, configure, free)
        sequences, threads = configure.max_sequences, configure.threads or machine.usable_cpus()
        chunk = sizing.prefill_chunk(model.parameters, threads)
        context = _context(model, room, sequences, threads, chunk)
        _warm_up(lib, model, context)
        prompts = PromptMaker(model)
        context_tokens = min(room.context_tokens, context.cells)
        self._outbox = outbox
        self._intake = Intake(connection, prompts, context_tokens)
        self._batcher = Batcher(
            model,
            context,
            Room(
                cells=context.cells,
                sequences=sequences,
                context_tokens=context_tokens,
                divisible=model.divisible_memory,
            ),
            chunk=chunk,
            stops=prompts.stops,
            send=self._send,
        )
        self._last_beat = 0.0
        said = ", ".join(filter(None, [model.description.strip(), prompts.note]))
        outbox.put(Ready(context_tokens, context.cells, sequences, threads, said))

    def run(self) -> None:
        """Serve until the process ends. Raises EngineError or OSError."""
        self._intake.start()
        while True:
            self._take_messages()
            self._batcher.step()
            self._beat()
            self._outbox.flush()

    def _take_messages(self) -> None:
        """Everything that came since the last step; while idle, wait for something."""
        if self._batcher.idle:
            self._outbox.drain()
            self._take(self._intake.inbox.get())
        while True:
            try:
                self._take(self._intake.inbox.get_nowait())
            except queue.Empty:
                return

    def _take(self, item: Job | FromEngine) -> None:
        if isinstance(item, Job):
            self._batcher.waiting.append(item)
        else:
            self._send(item)

    def _send(self, message: FromEngine) -> None:
        if isinstance(message, Done | Refused):
            self._intake.ended(message.id)
        self._outbox.put(message)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._last_beat >= _BEAT_SECONDS:
            self._last_beat = now
            batcher = self._batcher
            progress = Progress(batcher.running, len(batcher.waiting), batcher.free_cells)
            self._outbox.put(progress)


def _room(model: Model, configure: Configure, free_bytes: int) -> sizing.Room:
    return sizing.choose_room(
        trained=model.trained_tokens,
        asked=configure.context_tokens,
        sequences=configure.max_sequences,
        cell_bytes=model.cell_bytes,
        free_bytes=max(0, free_bytes - model.weight_bytes),
    )


def _context(model: Model, room: sizing.Room, sequences: int, threads: int, chunk: int) -> Context:
    """As many ids for shared prefixes as for answers, and a batch for the largest step."""
    batch_tokens = -(-(chunk + sequences) // _BATCH_STEP) * _BATCH_STEP
    return Context(
        model,
        cells=room.cells,
        sequences=2 * sequences,
        batch_tokens=batch_tokens,
        threads=threads,
    )


def _warm_up(lib: Any, model: Model, context: Context) -> None:
    """Compute one token, so that what can't work fails now and the weights are in memory."""
    batch = Batch(lib, 1)
    batch.add(model.first_token or 0, 0, 0, wants_logits=True)
    code = context.decode(batch)
    batch.free()
    context.clear()
    if code:
        raise NativeError(f"llama.cpp can't compute with this model (code {code})")


def _die_with_server() -> None:
    """Ask the kernel to kill this process when the server's thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _tune_libraries() -> None:
    """What ggml and OpenMP read from the environment when they are loaded.

    Threads that wait for each other spin only briefly: the engine shares its CPUs with
    the server and the sandbox, and long spinning takes away the time of the very thread
    that is waited for (measured on a busy machine: 1.4 times the speed).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["GGML_NO_BACKTRACE"] = "1"
