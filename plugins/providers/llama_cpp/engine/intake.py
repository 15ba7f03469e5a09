"""The engine's ear: reads frames and prepares prompts, so that the decode loop never waits.

One thread reads the socket and marks cancelled jobs at once; another renders, tokenizes
and makes grammars, which can take long for a large prompt. llama.cpp releases Python's
lock while it works, so neither holds up a decode step.
"""

import os
import queue
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

from appliance.domain.messages import CompletionRequest, FinishReason, TokenUsage
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.engine.request_preparer import Prepared, Preparer
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.prompt import PromptMaker
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import (
    Calls,
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

_PROTOCOL_ERROR = 3
T = TypeVar("T")


def receive(connection: socket.socket) -> ToEngine | None:
    """The next message, or None when the server has closed. Raises FrameError."""
    header = _exactly(connection, messages.HEADER_BYTES)
    body = _exactly(connection, messages.body_length(header)) if header else b""
    return messages.to_engine(body) if body else None


class Intake:
    """Puts into `inbox` the jobs that can run, and the answers to all others."""

    def __init__(
        self, connection: socket.socket, prompts: PromptMaker, context_tokens: int
    ) -> None:
        self.inbox: queue.SimpleQueue[Job | FromEngine] = queue.SimpleQueue()
        self._connection = connection
        self._preparer = Preparer(prompts)
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
        except (messages.FrameError, OSError) as error:
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
                raise messages.FrameError("the engine is configured already")

    def _prepare(self) -> None:
        while True:
            todo = self._unprepared.get()
            if isinstance(todo, Count):
                self.inbox.put(self._count(todo))
            else:
                self._place(todo)

    def _count(self, count: Count) -> FromEngine:
        prompt = self._attempt(count.id, self._preparer.prompt, count.request)
        if isinstance(prompt, Refused):
            return prompt
        return Done(count.id, FinishReason.STOP, TokenUsage(prompt_tokens=len(prompt.tokens)))

    def _place(self, job: Job) -> None:
        """Into the inbox with the job or its refusal; before it, the form of its calls."""
        if not job.cancelled:
            prepared = self._attempt(job.number, self._preparer.prepared, job.request)
            if isinstance(prepared, Refused):
                self.inbox.put(prepared)
                return
            self._complete(job, prepared)
            if (too_long := self._too_long(job)) is not None:
                self.inbox.put(too_long)
                return
            if prepared.form is not None:
                self.inbox.put(Calls(job.number, prepared.form))
        self.inbox.put(job)

    @staticmethod
    def _complete(job: Job, prepared: Prepared) -> None:
        shares, prompt = job.request.shared_system, prepared.prompt
        job.request, job.tokens = prepared.request, prompt.tokens
        job.kept_tokens = prompt.system_tokens
        job.shared_tokens = prompt.system_tokens if shares else 0

    def _too_long(self, job: Job) -> Refused | None:
        """A text that may be forgotten in parts needs room for its prompt and one token."""
        prompt, room = len(job.tokens), self._context_tokens
        answer = 1 if job.request.context_shift else job.max_tokens or 1
        if prompt + answer <= room:
            return None
        wanted = f" and up to {job.max_tokens} of the answer" if job.max_tokens else ""
        return Refused(
            job.number,
            RefusalKind.CONTEXT,
            f"the prompt has {prompt} tokens{wanted}; this model has room for {room} in all: "
            "send less, or ask for a shorter answer",
            {"prompt_tokens": prompt, "max_tokens": job.max_tokens, "context_tokens": room},
        )

    @staticmethod
    def _attempt(
        number: int, prepare: Callable[[CompletionRequest], T], request: CompletionRequest
    ) -> T | Refused:
        try:
            return prepare(request)
        except TemplateError as error:
            return Refused(number, RefusalKind.INPUT, str(error))
        except InvalidInput as error:
            return Refused(number, RefusalKind.INPUT, error.message, error.details)
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
            raise messages.FrameError("the stream ended within a frame")
        if not piece:
            return b""
        data += piece
    return bytes(data)
