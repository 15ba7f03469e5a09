"""The engine's process: connects to the server, confines itself, loads the model and serves.

The supervisor starts it with the path of a Unix socket. It ends when the server ends or closes
the socket, or when llama.cpp aborts.
"""

import os
import socket
import sys
from pathlib import Path

from plugins._shared import linux
from plugins.providers.llama_cpp.confinement import lockdown
from plugins.providers.llama_cpp.engine.batcher import EngineError
from plugins.providers.llama_cpp.engine.embedding_engine import EmbeddingEngine
from plugins.providers.llama_cpp.engine.engine import Engine
from plugins.providers.llama_cpp.engine.intake import receive_message
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.engine.sampling_pool import SamplingStalled
from plugins.providers.llama_cpp.host.exit_diagnosis import last_error_lines
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.native.loader import LibraryError, load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.renderer import start_renderer
from plugins.providers.llama_cpp.protocol.messages import Configure, LoadFailed

_EXIT_USAGE = 2
# How long a thread that prepares a prompt may make the decode loop wait for Python's lock.
_SWITCH_INTERVAL_S = 0.001


def main(argv: list[str]) -> int:
    """Returns the exit status; `argv` is the path of the socket."""
    if len(argv) != 1:
        print("usage: engine SOCKET", file=sys.stderr)
        return _EXIT_USAGE
    linux.set_parent_death_signal()
    _tune_libraries()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(argv[0])
        configure = receive_message(connection)
        if not isinstance(configure, Configure):
            return _EXIT_USAGE
        return _serve(connection, configure)


def _serve(connection: socket.socket, configure: Configure) -> int:
    outbox, log = Outbox(connection), ErrorLog()
    try:
        engine = _load_engine(connection, outbox, configure, log)
    except (LibraryError, NativeError, TemplateError) as error:
        details = "" if isinstance(error, TemplateError) else last_error_lines(log.text)
        outbox.put(LoadFailed(f"{error}" + (f" ({details})" if details else "")))
        outbox.drain()
        return 1
    try:
        engine.run()
    except (EngineError, SamplingStalled) as error:
        print(error, file=sys.stderr, flush=True)
        outbox.drain()
    except (BrokenPipeError, ConnectionResetError):
        return 0
    return 1


def _load_engine(
    connection: socket.socket, outbox: Outbox, configure: Configure, log: ErrorLog
) -> Engine | EmbeddingEngine:
    """Loads the libraries, which are trusted; reads the model only once confined."""
    try:
        renderer = None if configure.embeds else start_renderer(connection)
    except OSError as error:
        raise NativeError(f"the renderer of chat templates can't be started: {error}") from error
    lib = load_library()
    try:
        gpu = bool(lib.llama_supports_gpu_offload())
        confinement = lockdown.confine(Path(configure.path), gpu=gpu)
    except OSError as error:
        raise NativeError(f"the model file can't be opened: {error.strerror}") from error
    if renderer is None:
        return EmbeddingEngine(connection, outbox, configure, log, confinement)
    return Engine(connection, outbox, configure, log, confinement, renderer=renderer)


def _tune_libraries() -> None:
    """Sets Python's switch interval, and what ggml and OpenMP read when they are loaded.

    Threads that wait for each other spin only briefly. If two engines compute at once, long
    spinning takes CPU time from the threads that are waited for: with a spin count of 300,000,
    one engine alone was a quarter faster, but two on two CPUs were several times slower.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ["GGML_NO_BACKTRACE"] = "1"
