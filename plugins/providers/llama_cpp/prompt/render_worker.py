"""The process that renders chat templates, and its messages: a length and JSON.

A request is [source, variables], variables null to compile only; a reply is [kind, text].
"""

import json
import resource
import socket
from pathlib import Path

from plugins._shared import linux
from plugins.providers.llama_cpp.confinement import lockdown
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    TemplateError,
    check_template,
    render_template,
)

OK, FAILED, NO_MEMORY = "ok", "failed", "no_memory"
MEMORY_MIB = 512
_LENGTH_BYTES = 4
_MAX_MESSAGE_BYTES = 256 * 1024 * 1024


def run(engine: socket.socket) -> None:
    """Confine this process and answer requests until the engine closes the connection."""
    linux.set_parent_death_signal()
    _limit_memory()
    lockdown.confine_to_code()
    try:
        while True:
            send(engine, _answer(receive(engine)))
    except (EOFError, OSError):
        return


def send(connection: socket.socket, message: bytes) -> None:
    """Raises OSError."""
    connection.sendall(len(message).to_bytes(_LENGTH_BYTES, "big") + message)


def receive(connection: socket.socket) -> bytes:
    """Raises EOFError at the end of the stream, OSError for other failures."""
    length = int.from_bytes(_read(connection, _LENGTH_BYTES), "big")
    if length > _MAX_MESSAGE_BYTES:
        raise OSError(f"a message of {length} bytes")
    return _read(connection, length)


def _read(connection: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def _limit_memory() -> None:
    """In addition to what the process has mapped."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_MIB * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _answer(request: bytes) -> bytes:
    try:
        return json.dumps(_render(request)).encode()
    except MemoryError:
        return json.dumps([NO_MEMORY, ""]).encode()


def _render(request: bytes) -> list[str]:
    source, variables = json.loads(request)
    try:
        if variables is None:
            check_template(source)
            return [OK, ""]
        return [OK, render_template(source, variables)]
    except TemplateError as error:
        return [FAILED, str(error)]
    except MemoryError:
        raise
    except Exception as error:  # the template is a program from the model file
        return [FAILED, f"the model's chat template failed: {type(error).__name__}"]
