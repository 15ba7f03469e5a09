"""The engine: one model, one context, one decode loop, in a process of its own."""

import queue
import socket
import time
from typing import Any

from plugins.providers.llama_cpp.confinement.lockdown import Walls
from plugins.providers.llama_cpp.engine import calibration
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.intake import Intake
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, Room
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.host import host_resources, kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.native.loader import load
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.prompt.prompt import PromptMaker
from plugins.providers.llama_cpp.protocol.messages import (
    Configure,
    Done,
    FromEngine,
    Progress,
    Ready,
    Refused,
)
from plugins.providers.llama_cpp.speculation.speculation import MOST_DRAFTED
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts

_BEAT_SECONDS = 1.0
_BATCH_STEP = 32


class Engine:
    """A loaded model and the loop that serves it."""

    def __init__(
        self,
        connection: socket.socket,
        outbox: Outbox,
        configure: Configure,
        log: ErrorLog,
        walls: Walls,
    ) -> None:
        """Loads everything. Raises LibraryError or NativeError with the reason."""
        free = configure.memory_bytes or host_resources.available_bytes()
        lib = load()
        log.install(lib)
        lib.llama_backend_init()
        model = Model(lib, configure.path, gpu_layers=configure.gpu_layers)
        if not model.generates_text:
            raise NativeError("this model does not generate text (an encoder or diffusion model)")
        room = _room(model, configure, free)
        sequences, planned = (
            configure.max_sequences,
            calibration.planned(configure, model.parameters),
        )
        context = _context(model, room, sequences, planned.threads, planned.chunk)
        _warm_up(lib, model, context)
        measured = calibration.measured(configure, planned, model, context)
        prompts = PromptMaker(model)
        context_tokens = min(room.context_tokens, context.cells)
        self._outbox = outbox
        self._intake = Intake(connection, prompts, context_tokens)
        self._batcher = Batcher(
            model,
            context,
            Room(
                context,
                cells=context.cells,
                sequences=sequences,
                slots=context.slots,
                context_tokens=context_tokens,
                divisible=model.divisible_memory,
                shiftable=context.can_shift,
            ),
            chunk=measured.chunk,
            stops=prompts.stops,
            send=self._send,
            costs=measured.costs if model.divisible_memory else StepCosts(),
        )
        self._last_beat = 0.0
        said = ", ".join(filter(None, [model.description.strip(), prompts.note]))
        ready = Ready(
            context_tokens,
            context.cells,
            sequences,
            measured.threads,
            said,
            chunk=measured.chunk,
            prefill_tokens_per_second=measured.prefill_tokens_per_second,
            decode_tokens_per_second=measured.decode_tokens_per_second,
            walls=walls.layers,
            breaches=walls.breaches,
            row_costs=measured.costs.times,
        )
        outbox.put(ready)

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


def _room(model: Model, configure: Configure, free_bytes: int) -> kv_sizing.Room:
    return kv_sizing.choose_room(
        trained=model.trained_tokens,
        asked=configure.context_tokens,
        sequences=configure.max_sequences,
        cell_bytes=model.cell_bytes,
        free_bytes=max(0, free_bytes - model.weight_bytes),
    )


def _context(
    model: Model, room: kv_sizing.Room, sequences: int, threads: int, chunk: int
) -> Context:
    """Ids for answers and prefixes, and a batch for the largest step."""
    batch_tokens = -(-(chunk + sequences) // _BATCH_STEP) * _BATCH_STEP
    return Context(
        model,
        cells=room.cells,
        slots=SLOTS_PER_SEQUENCE * sequences,
        batch_tokens=batch_tokens,
        threads=threads,
        drafted=MOST_DRAFTED,
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
