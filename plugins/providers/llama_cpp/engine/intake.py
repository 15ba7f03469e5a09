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
import time
import traceback
from collections.abc import Callable
from typing import TypeVar

from appliance.domain.messages import FinishReason, TokenUsage
from appliance.errors import InvalidInput
from plugins.providers.llama_cpp.engine.preparation_queue import PreparationQueue
from plugins.providers.llama_cpp.engine.request_preparer import PreparedRequest, RequestPreparer
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.prompt.jinja_sandbox import TemplateError, TemplateLimitExceeded
from plugins.providers.llama_cpp.prompt.prompt import Prompt, PromptBuilder
from plugins.providers.llama_cpp.prompt.tokenizer import TooManyTokens
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.protocol.messages import (
    Cancel,
    Cancelled,
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
_PREPARATION_TIMEOUT_S = 30.0
# A prompt that is only counted may be so many times too long.
_COUNT_ROOM = 4
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
        self._to_prepare = PreparationQueue()
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
                self._enqueue(Job(number, request))
            case CountTokens(number, request):
                self._enqueue(Job(number, request, counts_only=True))
            case Cancel(number):
                self._cancel(self._jobs.pop(number, None))
            case Configure():
                raise messages.FrameError("received Configure twice")

    def _enqueue(self, job: Job) -> None:
        self._jobs[job.number] = job
        self._to_prepare.put(job)

    def _cancel(self, job: Job | None) -> None:
        """The decode loop confirms the cancellation of a job that is prepared."""
        if job is not None:
            job.cancelled = True
            if self._to_prepare.remove(job):
                self.inbox.put(Cancelled(job.number, TokenUsage()))

    def _prepare_requests(self) -> None:
        while True:
            job = self._to_prepare.get()
            try:
                self._prepare(job, _Deadline(job))
            except _CancelledError:
                self.inbox.put(Cancelled(job.number, TokenUsage()))

    def _prepare(self, job: Job, check: "_Deadline") -> None:
        """Put the job or its answer into the inbox, after the notice of its tool calls.

        Raises _CancelledError.
        """
        room, request = self._context_tokens, job.request
        if job.counts_only:
            counted = self._attempt(
                job,
                lambda: self._preparer.build_prompt(request, room * _COUNT_ROOM, check),
            )
            if isinstance(counted, Prompt):
                usage = TokenUsage(prompt_tokens=len(counted.tokens))
                self.inbox.put(Done(job.number, FinishReason.STOP, usage))
            else:
                self.inbox.put(counted)
            return
        prepared = self._attempt(job, lambda: self._preparer.prepare(request, room, check))
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
        if len(job.tokens) < self._context_tokens:
            return None
        return self._refuse_length(job, len(job.tokens), f"{len(job.tokens)}")

    def _refuse_length(self, job: Job, prompt_tokens: int, shown: str) -> Refused:
        return Refused(
            job.number,
            RefusalKind.CONTEXT,
            f"the prompt has {shown} tokens; the context of this model holds "
            f"{self._context_tokens}, including the answer: send less text",
            {
                "prompt_tokens": prompt_tokens,
                "max_tokens": job.max_tokens,
                "context_tokens": self._context_tokens,
            },
        )

    def _attempt(self, job: Job, prepare: Callable[[], T]) -> T | Refused:
        number = job.number
        try:
            return prepare()
        except _CancelledError:
            raise
        except TooManyTokens as error:
            return self._refuse_length(job, error.at_least, f"at least {error.at_least}")
        except (TemplateLimitExceeded, NativeError) as error:
            return Refused(number, RefusalKind.FAILED, str(error))
        except TemplateError as error:
            return Refused(number, RefusalKind.INPUT, str(error))
        except InvalidInput as error:
            return Refused(number, RefusalKind.INPUT, error.message, error.details)
        except Exception as error:  # the template is a program from the model file
            traceback.print_exc()
            reason = f"the model's chat template failed: {type(error).__name__}"
            return Refused(number, RefusalKind.FAILED, reason)


class _CancelledError(Exception):
    """The request was cancelled while it was prepared."""


class _Deadline:
    """Called between the steps of a preparation. Raises _CancelledError or InvalidInput."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._ends_at = time.monotonic() + _PREPARATION_TIMEOUT_S

    def __call__(self) -> None:
        if self._job.cancelled:
            raise _CancelledError
        if time.monotonic() > self._ends_at:
            raise InvalidInput(
                f"preparing the prompt took over {_PREPARATION_TIMEOUT_S:g} s: send less text"
            )


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
