"""The engine: one model, one context, one decode loop, in a process of its own."""

import queue
import socket
import time
from typing import Any

from appliance.spi import host
from plugins.providers.llama_cpp.confinement.lockdown import Confinement
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.calibration import (
    Calibration,
    calibrate,
    estimate_calibration,
)
from plugins.providers.llama_cpp.engine.intake import Intake
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.host import kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.prompt.prompt import PromptBuilder
from plugins.providers.llama_cpp.prompt.renderer import Renderer
from plugins.providers.llama_cpp.protocol.messages import (
    Configure,
    Done,
    FromEngine,
    Progress,
    Ready,
    Refused,
)
from plugins.providers.llama_cpp.speculation.speculation import MAX_DRAFT_TOKENS
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts

_PROGRESS_INTERVAL_S = 1.0
_BATCH_STEP = 32


class Engine:
    """A loaded model and the loop that serves it."""

    def __init__(
        self,
        connection: socket.socket,
        outbox: Outbox,
        configure: Configure,
        log: ErrorLog,
        confinement: Confinement,
        *,
        renderer: Renderer,
    ) -> None:
        """Loads everything. Raises LibraryError, NativeError or TemplateError with the reason."""
        free_bytes = configure.memory_bytes or host.available_memory()
        lib = load_library()
        log.install(lib)
        lib.llama_backend_init()
        model = Model(lib, configure.path, gpu_layers=configure.gpu_layers)
        if not model.generates_text:
            raise NativeError("this model does not generate text (an encoder or diffusion model)")
        prompts = PromptBuilder(model, renderer)
        size = _choose_size(model, configure, free_bytes)
        estimate = estimate_calibration(configure, model.parameters)
        context = _create_context(model, size, configure.max_sequences, estimate)
        _warm_up(lib, model, context)
        calibration = calibrate(configure, estimate, model, context)
        context_tokens = min(size.context_tokens, context.cells)
        self._outbox = outbox
        self._intake = Intake(connection, prompts, context_tokens)
        divisible = model.supports_partial_sequences
        kv_cache = KvCache(
            context,
            cells=context.cells,
            max_sequences=configure.max_sequences,
            slots=context.slots,
            context_tokens=context_tokens,
            divisible=divisible,
            shiftable=context.can_shift,
        )
        self._batcher = Batcher(
            model,
            context,
            kv_cache,
            chunk=calibration.chunk,
            stops=prompts.stops,
            send=self._send,
            costs=calibration.costs if divisible else StepCosts(),
        )
        self._last_progress = 0.0
        ready = Ready(
            context_tokens,
            context.cells,
            configure.max_sequences,
            calibration.threads,
            prompts.note,
            chunk=calibration.chunk,
            prefill_tokens_per_second=calibration.prefill_tokens_per_second,
            decode_tokens_per_second=calibration.decode_tokens_per_second,
            confinement_layers=confinement.layers,
            confinement_gaps=confinement.missing,
            row_costs=calibration.costs.times,
        )
        outbox.put(ready)

    def run(self) -> None:
        """Serve until the process ends. Raises EngineError, SamplingStalled or OSError."""
        self._intake.start()
        while True:
            self._read_inbox()
            self._batcher.step()
            self._report_progress()
            self._outbox.flush()

    def _read_inbox(self) -> None:
        """Handle everything that arrived since the last step; if idle, wait for something."""
        if self._batcher.idle:
            self._outbox.drain()
            self._handle(self._intake.inbox.get())
        while True:
            try:
                self._handle(self._intake.inbox.get_nowait())
            except queue.Empty:
                return

    def _handle(self, item: Job | FromEngine) -> None:
        if isinstance(item, Job):
            self._batcher.queue.append(item)
        else:
            self._send(item)

    def _send(self, message: FromEngine) -> None:
        if isinstance(message, Done | Refused):
            self._intake.forget(message.id)
        self._outbox.put(message)

    def _report_progress(self) -> None:
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_INTERVAL_S:
            self._last_progress = now
            batcher = self._batcher
            progress = Progress(batcher.running, len(batcher.queue), batcher.free_cells)
            self._outbox.put(progress)


def _choose_size(model: Model, configure: Configure, free_bytes: int) -> kv_sizing.KvCacheSize:
    return kv_sizing.choose_kv_cache_size(
        training_context=model.training_context,
        requested_context=configure.context_tokens,
        sequences=configure.max_sequences,
        cell_bytes=model.cell_bytes,
        free_bytes=max(0, free_bytes - model.weight_bytes),
    )


def _create_context(
    model: Model, size: kv_sizing.KvCacheSize, sequences: int, estimate: Calibration
) -> Context:
    """Slots for answers and prefixes, and a batch for the largest step."""
    batch_tokens = -(-(estimate.chunk + sequences) // _BATCH_STEP) * _BATCH_STEP
    return Context(
        model,
        cells=size.cells,
        slots=SLOTS_PER_SEQUENCE * sequences,
        batch_tokens=batch_tokens,
        threads=estimate.threads,
        draft_rows=MAX_DRAFT_TOKENS,
    )


def _warm_up(lib: Any, model: Model, context: Context) -> None:
    """Compute one token, so that faults show now and the weights are in memory."""
    batch = Batch(lib, 1)
    batch.add(model.bos_token or 0, 0, 0, wants_logits=True)
    code = context.decode(batch)
    batch.free()
    context.clear()
    if code:
        raise NativeError(f"llama.cpp can't compute with this model (code {code})")
