"""The engine's process: connects to the server, confines itself, then loads and serves.

Started by the supervisor with the path of a Unix socket. It ends when the server ends,
closes the socket, or llama.cpp gives up.
"""

import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

from plugins.providers.llama_cpp.confinement import lockdown
from plugins.providers.llama_cpp.engine.batcher import EngineError
from plugins.providers.llama_cpp.engine.embedding_engine import VectorEngine
from plugins.providers.llama_cpp.engine.engine import Engine
from plugins.providers.llama_cpp.engine.intake import receive
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.host.exit_diagnosis import last_errors
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.native.loader import LibraryError, load
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.messages import Broken, Configure

_PR_SET_PDEATHSIG = 1
_USAGE = 2


def main(argv: list[str]) -> int:
    """The process; `argv` is the socket's path."""
    if len(argv) != 1:
        print("usage: process SOCKET", file=sys.stderr)
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
        engine = _loaded(connection, outbox, configure, log)
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


def _loaded(
    connection: socket.socket, outbox: Outbox, configure: Configure, log: ErrorLog
) -> Engine | VectorEngine:
    """Loads the libraries, which are ours; then nothing of the model is read unconfined."""
    lib = load()
    try:
        gpu = bool(lib.llama_supports_gpu_offload())
        walls = lockdown.confine(Path(configure.path), gpu=gpu)
    except OSError as error:
        raise NativeError(f"the model file can't be opened: {error.strerror}") from error
    if configure.embeds:
        return VectorEngine(connection, outbox, configure, log, walls)
    return Engine(connection, outbox, configure, log, walls)


def _die_with_server() -> None:
    """Ask the kernel to kill this process when the server's thread that started it ends."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")


def _tune_libraries() -> None:
    """What ggml and OpenMP read from the environment when they are loaded.

    Threads that wait for each other spin only briefly. Where two engines work at once, as
    with two models, long spinning takes away the time of the very threads that are waited
    for: at 300,000 turns, a quarter faster for one engine alone on an idle machine, two
    on two processors were several times slower.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["GGML_NO_BACKTRACE"] = "1"
