"""Renders chat templates in a process of their own, within limits of memory and time.

A template is a program from the model file. Jinja's sandbox keeps it from the machine, but not
from taking all memory or time: `'a' * 2000000000` is one expression. So the engine, before it
loads a library or starts a thread, forks a small starter process. On request the starter ends the
last worker and forks a new one (see render_worker.py), which confines itself and keeps rendering
until it fails.
"""

import json
import os
import signal
import socket
from typing import Any, Protocol

from plugins._shared import linux
from plugins.providers.llama_cpp.prompt import render_worker
from plugins.providers.llama_cpp.prompt.jinja_sandbox import (
    TemplateError,
    TemplateLimitExceeded,
    check_template,
    render_template,
)

_TIMEOUT_S = 10.0
_START_WORKER = b"w"


class Renderer(Protocol):
    """Compiles and renders templates."""

    def check(self, source: str) -> None:
        """Raises TemplateError if the template can't be compiled."""
        ...

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """Raises TemplateError."""
        ...


class LocalRenderer:
    """Renders in this process, without limits: for templates that are trusted."""

    def check(self, source: str) -> None:
        check_template(source)

    def render(self, source: str, variables: dict[str, Any]) -> str:
        return render_template(source, variables)


class ConfinedRenderer:
    """Renders in a worker process. Only one thread may use it at a time."""

    def __init__(self, starter: socket.socket) -> None:
        """`starter` is the connection to the starter process, see `start_renderer`."""
        self._starter = starter
        self._worker = self._start_worker()

    def check(self, source: str) -> None:
        """Raises TemplateError if the template can't be compiled."""
        self._ask(source, None)

    def render(self, source: str, variables: dict[str, Any]) -> str:
        """Raises TemplateError, as TemplateLimitExceeded for too much memory or time."""
        return self._ask(source, variables)

    def _ask(self, source: str, variables: dict[str, Any] | None) -> str:
        try:
            request = json.dumps([source, variables]).encode()
        except (ValueError, TypeError, RecursionError) as error:
            raise TemplateError(f"the messages can't be rendered: {error}") from error
        try:
            render_worker.send(self._worker, request)
            reply = render_worker.receive(self._worker)
        except (OSError, EOFError) as error:
            self._worker.close()
            self._worker = self._start_worker()
            raise TemplateLimitExceeded(_limit_message()) from error
        kind, text = json.loads(reply)
        if kind == render_worker.OK:
            return text
        if kind == render_worker.NO_MEMORY:
            raise TemplateLimitExceeded(_limit_message())
        raise TemplateError(text)

    def _start_worker(self) -> socket.socket:
        """A new worker; the last one is ended."""
        self._starter.sendall(_START_WORKER)
        _, descriptors, _, _ = socket.recv_fds(self._starter, 1, 1)
        worker = socket.socket(fileno=descriptors[0])
        worker.settimeout(_TIMEOUT_S)
        return worker


def start_renderer(connection: socket.socket) -> ConfinedRenderer:
    """Fork the starter process, which ends with this one.

    To be called while this process has one thread and no library of the engine. The child
    closes `connection`. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        try:
            connection.close()
            ours.close()
            _run_starter(theirs)
        finally:
            os._exit(0)
    theirs.close()
    return ConfinedRenderer(ours)


def _run_starter(engine: socket.socket) -> None:
    linux.set_parent_death_signal()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    worker = 0
    while engine.recv(1):
        if worker:
            os.kill(worker, signal.SIGKILL)
        ours, theirs = socket.socketpair()
        worker = os.fork()
        if worker == 0:
            engine.close()
            ours.close()
            render_worker.run(theirs)
            os._exit(0)
        theirs.close()
        socket.send_fds(engine, [_START_WORKER], [ours.fileno()])
        ours.close()


def _limit_message() -> str:
    return (
        "the model's chat template exceeded its limits "
        f"({_TIMEOUT_S:g} s, {render_worker.MEMORY_MIB} MiB)"
    )
