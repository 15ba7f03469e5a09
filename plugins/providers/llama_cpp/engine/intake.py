"""Reads frames from the server and prepares requests, so that the decode loop never waits.

One thread reads the socket and marks cancelled jobs at once; another renders, tokenizes and
compiles grammars, which can take long for a large prompt. llama.cpp releases Python's lock
while it works, so neither delays a decode step.
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
from plugins.providers.llama_cpp.engine.request_preparer import PreparedRequest, RequestPreparer
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError
from plugins.providers.llama_cpp.prompt.prompt import PromptBuilder
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import (
    Cancel,
    Configure,
    CountTokens,
    Done,
    FromEngine,
    RefusalKind,
    Refused,
    Submit,
    ToEngine,
    ToolCallNotice,
)

_PROTOCOL_ERROR = 3
T = TypeVar("T")


def receive_message(connection: socket.socket) -> ToEngine | None:
    """The next message, or None if the server has closed the connection. Raises FrameError."""
    header = _read_exactly(connection, messages.HEADER_BYTES)
    body = _read_exactly(connection, messages.decode_body_length(header)) if header else b""
    return messages.decode_to_engine(body) if body else None


class Intake:
    """Puts the jobs that can run into `inbox`, and the answers to all other messages."""

    def __init__(
        self, connection: socket.socket, prompts: PromptBuilder, context_tokens: int
    ) -> None:
        self.inbox: queue.SimpleQueue[Job | FromEngine] = queue.SimpleQueue()
        self._connection = connection
        self._preparer = RequestPreparer(prompts)
        self._context_tokens = context_tokens
        # The server limits how many requests are open, and thereby this queue.
        self._to_prepare: queue.SimpleQueue[Job | CountTokens] = queue.SimpleQueue()
        self._jobs: dict[int, Job] = {}

    def start(self) -> None:
        """Start both threads; they end with the process."""
        threading.Thread(target=self._read_messages, name="reader", daemon=True).start()
        threading.Thread(target=self._prepare_requests, name="prompts", daemon=True).start()

    def forget(self, number: int) -> None:
        """A job got its last message and can't be cancelled any more."""
        self._jobs.pop(number, None)

    def _read_messages(self) -> None:
        """Ends the process when the server closes the connection."""
        try:
            while (message := receive_message(self._connection)) is not None:
                self._handle(message)
        except (messages.FrameError, OSError) as error:
            print(f"the connection to the server failed: {error}", file=sys.stderr, flush=True)
            os._exit(_PROTOCOL_ERROR)
        os._exit(0)

    def _handle(self, message: ToEngine) -> None:
        match message:
            case Submit(number, request):
                job = self._jobs[number] = Job(number, request)
                self._to_prepare.put(job)
            case CountTokens():
                self._to_prepare.put(message)
            case Cancel(number):
                job = self._jobs.pop(number, None)
                if job is not None:
                    job.cancelled = True
            case Configure():
                raise messages.FrameError("received Configure twice")

    def _prepare_requests(self) -> None:
        while True:
            item = self._to_prepare.get()
            if isinstance(item, CountTokens):
                self.inbox.put(self._count_tokens(item))
            else:
                self._prepare_job(item)

    def _count_tokens(self, count: CountTokens) -> FromEngine:
        prompt = self._attempt(count.id, self._preparer.build_prompt, count.request)
        if isinstance(prompt, Refused):
            return prompt
        return Done(count.id, FinishReason.STOP, TokenUsage(prompt_tokens=len(prompt.tokens)))

    def _prepare_job(self, job: Job) -> None:
        """Put the job or its refusal into the inbox, after the notice of its tool calls."""
        if not job.cancelled:
            prepared = self._attempt(job.number, self._preparer.prepare, job.request)
            if isinstance(prepared, Refused):
                self.inbox.put(prepared)
                return
            _fill_job(job, prepared)
            if (refusal := self._check_length(job)) is not None:
                self.inbox.put(refusal)
                return
            if prepared.tool_call_format is not None:
                self.inbox.put(ToolCallNotice(job.number, prepared.tool_call_format))
        self.inbox.put(job)

    def _check_length(self, job: Job) -> Refused | None:
        """The context must hold the prompt and one token; `max_tokens` is only a cap."""
        prompt_tokens, context_tokens = len(job.tokens), self._context_tokens
        if prompt_tokens < context_tokens:
            return None
        return Refused(
            job.number,
            RefusalKind.CONTEXT,
            f"the prompt has {prompt_tokens} tokens; the context of this model holds "
            f"{context_tokens}, including the answer: send less text",
            {
                "prompt_tokens": prompt_tokens,
                "max_tokens": job.max_tokens,
                "context_tokens": context_tokens,
            },
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
        except Exception as error:  # the template is a program from the model file
            traceback.print_exc()
            reason = f"the model's chat template failed: {type(error).__name__}"
            return Refused(number, RefusalKind.FAILED, reason)


def _fill_job(job: Job, prepared: PreparedRequest) -> None:
    shares_system, prompt = job.request.shared_system, prepared.prompt
    job.request, job.tokens = prepared.request, prompt.tokens
    job.kept_tokens = prompt.system_tokens
    job.shared_tokens = prompt.system_tokens if shares_system else 0


def _read_exactly(connection: socket.socket, count: int) -> bytes:
    """This many bytes, or none at the end of the stream. Raises FrameError in between."""
    data = bytearray()
    while len(data) < count:
        piece = connection.recv(min(count - len(data), 1 << 20))
        if not piece and data:
            raise messages.FrameError("the stream ended within a frame")
        if not piece:
            return b""
        data += piece
    return bytes(data)
