"""Continuous batching: each decode step computes a token of every answer and a chunk of prompts.

Between steps cancelled jobs leave and waiting ones are admitted, so no job waits for another's
answer to end. Owners get equal shares (see fairness.py).
"""

import time
from collections.abc import Callable, Iterator

from appliance.domain.messages import TokenUsage
from plugins.providers.llama_cpp.engine.fairness import JobQueue, divide_tokens
from plugins.providers.llama_cpp.engine.kv_cache import KvCache, Placement
from plugins.providers.llama_cpp.engine.prefix_attach import PrefixAttacher
from plugins.providers.llama_cpp.engine.sequences import CacheEntry, Job, Prefix, Sequence
from plugins.providers.llama_cpp.engine.token_emitter import TokenEmitter
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import (
    Cancelled,
    FromEngine,
    RefusalKind,
    Refused,
)
from plugins.providers.llama_cpp.sampling.sampler import Sampler
from plugins.providers.llama_cpp.speculation.drafter import Drafter
from plugins.providers.llama_cpp.speculation.speculation import DraftInput, Speculation
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts

_NO_FREE_CELL = 1  # llama_decode's code
_MAX_FAILURES_IN_A_ROW = 3
_TOKENS_PER_SPEED = 16
_UNKNOWN_COSTS = StepCosts()


class EngineError(Exception):
    """llama.cpp keeps failing; only a new process can help."""


class Batcher:
    """Runs jobs on one context and passes messages for the server to `send`."""

    def __init__(
        self,
        model: Model,
        context: Context,
        kv_cache: KvCache,
        *,
        chunk: int,
        stops: tuple[str, ...],
        send: Callable[[FromEngine], None],
        costs: StepCosts = _UNKNOWN_COSTS,
    ) -> None:
        """`chunk` is the number of prefill tokens per step. Without known `costs` no tokens are
        drafted. Raises NativeError.
        """
        self._model, self._context, self._kv_cache = model, context, kv_cache
        self._chunk, self._stops, self._send = chunk, stops, send
        self._batch = Batch(model.lib, context.batch_tokens)
        self._speculation = Speculation(costs)
        self._speed = _DecodeSpeed()
        self._emitter = TokenEmitter(model, context, kv_cache, send)
        self._attacher = PrefixAttacher(context, kv_cache)
        self._failures = 0
        self.queue = JobQueue()

    @property
    def idle(self) -> bool:
        return not (self.queue or self._kv_cache.sequences)

    @property
    def running(self) -> int:
        return len(self._kv_cache.sequences)

    @property
    def free_cells(self) -> int:
        return self._kv_cache.free_cells

    def step(self) -> None:
        """Admit, compute, sample. Raises EngineError or SamplingStalled, see there."""
        self._remove_cancelled()
        self._emitter.emit_pending()
        self._emitter.finish_sequences(self._speed.tokens_per_second)
        self._admit()
        self._attacher.attach_ready()
        rows = self._fill_batch()
        if not self._batch.size:
            self._emitter.wait_for_any_sample()
            return
        started = time.monotonic()
        code = self._context.decode(self._batch)
        if code:
            self._recover(code)
            return
        self._failures = 0
        alone = len(rows) == 1 and len(self._batch.counts) == 1 and rows[0][0].decoding
        sampled = [self._emitter.emit(sequence, row) for sequence, row in rows]
        if alone and sampled[0]:
            self._speed.add(sampled[0], time.monotonic() - started)
        self._emitter.wait_for_quick_samples()
        self._emitter.emit_pending()
        self._emitter.finish_sequences(self._speed.tokens_per_second)

    def _remove_cancelled(self) -> None:
        """Each gets a last message with its usage, which is charged nevertheless."""
        for job in self.queue.remove_matching(lambda job: job.cancelled):
            self._send(Cancelled(job.number, TokenUsage()))
        for sequence in [each for each in self._kv_cache.sequences if each.job.cancelled]:
            self._send(Cancelled(sequence.job.number, sequence.usage_so_far()))
            self._kv_cache.remove_sequence(sequence)

    def _admit(self) -> None:
        while (job := self.queue.next_job(self._kv_cache.count_running())) is not None:
            placement = self._kv_cache.find_placement(job)
            if placement is None:
                return
            self.queue.remove(job)
            self._start_sequence(job, placement)

    def _start_sequence(self, job: Job, placement: Placement) -> None:
        request = job.request
        try:
            sampler = Sampler(self._model, request.sampling, job.tokens, request.output.grammar)
        except NativeError as error:
            self._kv_cache.release_slot(placement.slot)
            self._send(Refused(job.number, RefusalKind.FAILED, str(error)))
            return
        sequence = self._kv_cache.start_sequence(job, placement, sampler=sampler, stops=self._stops)
        if self._speculation.enabled:
            sequence.drafter = Drafter()

    def _fill_batch(self) -> list[tuple[Sequence, int]]:
        """Put this step's tokens into the batch; returns the row of each sequence's logits."""
        self._batch.clear()
        rows: list[tuple[Sequence, int]] = []
        decoding = [each for each in self._kv_cache.sequences if each.decoding]
        prefill = list(self._divide_chunk())
        self._draft(decoding, prefill_rows=sum(count for _, count in prefill))
        for sequence in decoding:
            rows.append((sequence, self._add_sampled(sequence)))
        for entry, count in prefill:
            row = self._add_next(entry, count)
            if isinstance(entry, Sequence) and not entry.pending:
                rows.append((entry, row))
            if isinstance(entry, Prefix):
                spare = self._context.batch_tokens - self._batch.size
                for sequence in self._attacher.join_step(entry, self._batch, count, spare):
                    rows.append((sequence, self._add_next(sequence, 1)))
        return rows

    def _draft(self, decoding: list[Sequence], *, prefill_rows: int) -> None:
        """Draft tokens take only rows that nothing else needs in this step."""
        context = self._context
        unused = context.batch_tokens - len(decoding) - prefill_rows
        spare = min(unused, context.outputs - len(self._kv_cache.sequences))
        inputs = [
            DraftInput(each.drafter, each.tokens, each.remaining_tokens - 1) for each in decoding
        ]
        drafts = self._speculation.draft(inputs, prefill_rows=prefill_rows, spare_rows=spare)
        for sequence, draft in zip(decoding, drafts, strict=True):
            sequence.draft = draft

    def _divide_chunk(self) -> Iterator[tuple[CacheEntry, int]]:
        """Which entries are prefilled in this step by how many tokens; one chunk in total."""
        entries: dict[str, list[CacheEntry]] = {}
        for entry in self._kv_cache.entries:
            decoding = isinstance(entry, Sequence) and entry.decoding
            if not decoding and entry.attached and entry.pending:
                entries.setdefault(entry.owner, []).append(entry)
        demands = {owner: sum(each.pending for each in entries[owner]) for owner in entries}
        for owner, share in divide_tokens(demands, self._chunk).items():
            unassigned = share
            for entry in entries[owner]:
                count = min(unassigned, entry.pending)
                unassigned -= count
                if count:
                    yield entry, count

    def _add_sampled(self, sequence: Sequence) -> int:
        """Add the last sampled token and the draft behind it; returns the first one's row."""
        tokens, start = [sequence.tokens[-1], *sequence.draft], sequence.position
        sequence.position += len(tokens)
        return self._batch.extend_with_logits(tokens, start, sequence.slot)

    def _add_next(self, entry: CacheEntry, count: int) -> int:
        """Add the next tokens of an entry; returns the last one's row."""
        start, end = entry.position, entry.position + count
        wants_logits = isinstance(entry, Sequence) and end == len(entry.tokens)
        entry.position = end
        tokens = entry.tokens[start:end]
        return self._batch.extend(tokens, start, entry.slot, wants_logits=wants_logits)

    def _recover(self, code: int) -> None:
        """After a failed decode: refuse what can't continue and leave a consistent cache."""
        if code == _NO_FREE_CELL:
            self._emitter.refuse(self._kv_cache.sequences[-1:], "the model's KV cache is full")
            self._undo_positions()
            return
        self._failures += 1
        message = f"llama.cpp failed to compute (code {code})"
        self._emitter.refuse(list(self._kv_cache.sequences), message)
        self._kv_cache.evict_idle_prefixes()
        self._context.clear()
        if self._failures >= _MAX_FAILURES_IN_A_ROW:
            raise EngineError(f"llama.cpp failed to compute {self._failures} times in a row")

    def _undo_positions(self) -> None:
        """llama.cpp left its cache as it was before the step, so restore the positions."""
        for entry in self._kv_cache.entries:
            entry.position -= self._batch.counts.get(entry.slot, 0)
        self._attacher.undo_join()


class _DecodeSpeed:
    """Decode speed of one sequence alone, from steps that computed nothing else."""

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self._tokens, self._seconds = 0, 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self._tokens += tokens
        self._seconds += seconds
        if self._tokens >= _TOKENS_PER_SPEED:
            self.tokens_per_second = self._tokens / self._seconds
            self._tokens, self._seconds = 0, 0.0
