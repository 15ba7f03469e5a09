"""The engine's ear: reads frames and prepares prompts, so that the decode loop never waits.

One thread reads the socket and marks cancelled jobs at once; another renders and
tokenizes, which can take long for a large prompt. llama.cpp releases Python's lock
while it works, so neither holds up a decode step.
"""

import os
import queue
import socket
import sys
import threading
import traceback

from appliance.domain.messages import CompletionRequest, FinishReason, TokenUsage
from plugins.providers.llama_cpp import protocol
from plugins.providers.llama_cpp.native import NativeError
from plugins.providers.llama_cpp.prompt import PromptMaker
from plugins.providers.llama_cpp.protocol import (
    Cancel,
    Configure,
    Count,
    Done,
    FromEngine,
    RefusalKind,
    Refused,
    Submit,
    ToEngine,
)
from plugins.providers.llama_cpp.sequences import Job
from plugins.providers.llama_cpp.template import TemplateError

_PROTOCOL_ERROR = 3


def receive(connection: socket.socket) -> ToEngine | None:
    """The next message, or None when the server has closed. Raises FrameError."""
    header = _exactly(connection, protocol.HEADER_BYTES)
    body = _exactly(connection, protocol.body_length(header)) if header else b""
    return protocol.to_engine(body) if body else None


class Intake:
    """Puts into `inbox` the jobs that can run, and the answers to all others."""

    def __init__(
        self, connection: socket.socket, prompts: PromptMaker, context_tokens: int
    ) -> None:
        self.inbox: queue.SimpleQueue[Job | FromEngine] = queue.SimpleQueue()
        self._connection = connection
        self._prompts = prompts
        self._context_tokens = context_tokens
        # The server bounds how many requests are open, and thereby this queue.
        self._unprepared: queue.SimpleQueue[Job | Count] = queue.SimpleQueue()
        self._live: dict[int, Job] = {}

    def start(self) -> None:
        """Start both threads; they end with the process."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        threading.Thread(target=self._prepare, name="prompts", daemon=True).start()

    def ended(self, number: int) -> None:
        """A job got its last message: nobody can cancel it any more."""
        self._live.pop(number, None)

    def _read(self) -> None:
        """Until the server goes: then this process has no purpose left."""
        try:
            while (message := receive(self._connection)) is not None:
                self._sort(message)
        except (protocol.FrameError, OSError) as error:
            print(f"the connection to the server failed: {error}", file=sys.stderr, flush=True)
            os._exit(_PROTOCOL_ERROR)
        os._exit(0)

    def _sort(self, message: ToEngine) -> None:
        match message:
            case Submit(number, request):
                job = self._live[number] = Job(number, request)
                self._unprepared.put(job)
            case Count():
                self._unprepared.put(message)
            case Cancel(number):
                job = self._live.pop(number, None)
                if job is not None:
                    job.cancelled = True
            case Configure():
                raise protocol.FrameError("the engine is configured already")

    def _prepare(self) -> None:
        while True:
            todo = self._unprepared.get()
            self.inbox.put(self._count(todo) if isinstance(todo, Count) else self._ready(todo))

    def _count(self, count: Count) -> FromEngine:
        tokens = self._tokens(count.id, count.request)
        if isinstance(tokens, Refused):
            return tokens
        return Done(count.id, FinishReason.STOP, TokenUsage(prompt_tokens=len(tokens)))

    def _ready(self, job: Job) -> Job | FromEngine:
        tokens = [] if job.cancelled else self._tokens(job.number, job.request)
        if isinstance(tokens, Refused):
            return tokens
        job.tokens = tokens
        return job if job.cancelled else self._too_long(job) or job

    def _too_long(self, job: Job) -> Refused | None:
        prompt, room = len(job.tokens), self._context_tokens
        if prompt + (job.max_tokens or 1) <= room:
            return None
        wanted = f" and up to {job.max_tokens} of the answer" if job.max_tokens else ""
        return Refused(
            job.number,
            RefusalKind.CONTEXT,
            f"the prompt has {prompt} tokens{wanted}; this model has room for {room} in all: "
            "send less, or ask for a shorter answer",
            {"prompt_tokens": prompt, "max_tokens": job.max_tokens, "context_tokens": room},
        )

    def _tokens(self, number: int, request: CompletionRequest) -> list[int] | Refused:
        try:
            return self._prompts.tokens(request.messages)
        except TemplateError as error:
            return Refused(number, RefusalKind.INPUT, str(error))
        except NativeError as error:
            return Refused(number, RefusalKind.FAILED, str(error))
        except Exception as error:  # the template is a program out of the model file
            traceback.print_exc()
            reason = f"the model's chat template failed: {type(error).__name__}"
            return Refused(number, RefusalKind.FAILED, reason)


def _exactly(connection: socket.socket, count: int) -> bytes:
    """So many bytes, or none at the end of the stream. Raises FrameError in between."""
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece and data:
            raise protocol.FrameError("the stream ended within a frame")
        if not piece:
            return b""
        data += piece
    return bytes(data)
