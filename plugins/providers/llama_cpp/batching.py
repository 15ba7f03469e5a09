"""Continuous batching: each step computes one token of every answer and a chunk of prompts.

Jobs are admitted in the order in which they came. Between two steps cancelled jobs
leave and waiting ones enter, so neither waits for another's answer to end.
"""

from collections import deque
from collections.abc import Callable, Iterator

from appliance.domain.messages import FinishReason
from plugins.providers.llama_cpp.native import Batch, Context, Model, NativeError
from plugins.providers.llama_cpp.protocol import Done, FromEngine, RefusalKind, Refused, Text
from plugins.providers.llama_cpp.room import Plan, Room
from plugins.providers.llama_cpp.sampling import Sampler
from plugins.providers.llama_cpp.sequences import Job, Lane, Prefix, Sequence
from plugins.providers.llama_cpp.speed import SoloSpeed

_NO_CELL = 1
_FAILURES_IN_A_ROW = 3


class EngineError(Exception):
    """llama.cpp keeps failing; only a new process can help."""


class Batcher:
    """Runs jobs on one context; `send` gets what the server has to hear."""

    def __init__(
        self,
        model: Model,
        context: Context,
        room: Room,
        *,
        chunk: int,
        stops: tuple[str, ...],
        send: Callable[[FromEngine], None],
    ) -> None:
        """Raises NativeError if the memory for a batch is not there."""
        self._model, self._context, self._room = model, context, room
        self._chunk, self._stops, self._send = chunk, stops, send
        self._batch = Batch(model.lib, context.batch_tokens)
        self._speed = SoloSpeed()
        self._failures = 0
        self.waiting: deque[Job] = deque()

    @property
    def idle(self) -> bool:
        return not (self.waiting or self._room.sequences)

    @property
    def running(self) -> int:
        return len(self._room.sequences)

    @property
    def free_cells(self) -> int:
        return self._room.free_cells

    def step(self) -> None:
        """Admit, compute, draw. Raises EngineError when it has failed several times in a row."""
        self._drop_cancelled()
        self._admit()
        self._attach()
        rows = self._fill()
        if not self._batch.size:
            return
        self._speed.begin()
        code = self._context.decode(self._batch)
        if code:
            self._recover(code)
            return
        self._failures = 0
        for sequence, row in rows:
            self._draw(sequence, row)
        self._speed.end(drawn=len(rows), computed=self._batch.size)
        self._finish()

    def _drop_cancelled(self) -> None:
        self.waiting = deque(job for job in self.waiting if not job.cancelled)
        for sequence in [each for each in self._room.sequences if each.job.cancelled]:
            self._leave(sequence)

    def _admit(self) -> None:
        while self.waiting:
            placed = self._room.place(self.waiting[0], self._context.remove)
            if placed is None:
                return
            self._enter(self.waiting.popleft(), *placed)

    def _enter(self, job: Job, plan: Plan, slot: int) -> None:
        try:
            sampler = Sampler(self._model, job.request.sampling, job.tokens)
        except NativeError as error:
            self._room.give_back(slot)
            self._send(Refused(job.number, RefusalKind.FAILED, str(error)))
            return
        base, length = plan.base, plan.base_length
        if plan.makes_prefix:
            base = self._room.enter_prefix(job, plan)
            length = len(base.tokens)
        sequence = Sequence(
            slot,
            job,
            base,
            length,
            allowance=plan.allowance,
            sampler=sampler,
            stops=self._stops,
        )
        self._room.sequences.append(sequence)

    def _attach(self) -> None:
        """Give lanes their shared beginning as soon as that is computed."""
        for lane in self._lanes():
            base = lane.base
            if lane.attached or base is None or not self._offers(base, lane.base_length):
                continue
            if lane.base_length == len(base.tokens):
                self._context.copy_all(base.slot, lane.slot)
            else:
                self._context.copy(base.slot, lane.slot, lane.base_length)
            lane.attached, lane.position = True, lane.base_length
            self._room.touch(base)
            if isinstance(lane, Sequence):
                whole = lane.base_length == len(base.tokens)
                lane.cached = base.charge() if whole else lane.base_length

    @staticmethod
    def _offers(base: Prefix, length: int) -> bool:
        return base.position >= length if length < len(base.tokens) else not base.pending

    def _lanes(self) -> Iterator[Lane]:
        yield from self._room.prefixes
        yield from self._room.sequences

    def _fill(self) -> list[tuple[Sequence, int]]:
        """Put this step's tokens into the batch; returns whose logits lie in which row."""
        self._batch.clear()
        rows: list[tuple[Sequence, int]] = []
        for sequence in self._room.sequences:
            if sequence.decoding:
                rows.append((sequence, self._add(sequence, 1)))
        left = self._chunk
        for lane in self._lanes():
            if not lane.attached or not lane.pending or left <= 0:
                continue
            if isinstance(lane, Sequence) and lane.decoding:
                continue
            count = min(left, lane.pending)
            left -= count
            row = self._add(lane, count)
            if isinstance(lane, Sequence) and not lane.pending:
                rows.append((lane, row))
        return rows

    def _add(self, lane: Lane, count: int) -> int:
        """Add the next tokens of a lane; returns the last one's row."""
        row, last = -1, len(lane.tokens) - 1
        answer = isinstance(lane, Sequence)
        for at in range(lane.position, lane.position + count):
            wanted = answer and at == last
            row = self._batch.add(lane.tokens[at], at, lane.slot, wants_logits=wanted)
        lane.position += count
        return row

    def _draw(self, sequence: Sequence, row: int) -> None:
        token = sequence.sampler.sample(self._context, row)
        sequence.generated += 1
        if self._model.ends_generation(token):
            sequence.finished = FinishReason.STOP
            return
        sequence.tokens.append(token)
        self._show(sequence, sequence.text.push(self._model.piece(token)))
        if sequence.text.stopped:
            sequence.finished = FinishReason.STOP
        elif sequence.generated >= sequence.allowance and not self._room.grow(
            sequence, self._context.remove
        ):
            sequence.finished = FinishReason.LENGTH

    def _show(self, sequence: Sequence, text: str) -> None:
        if text:
            self._send(Text(sequence.job.number, text))

    def _finish(self) -> None:
        for sequence in [each for each in self._room.sequences if each.finished]:
            self._show(sequence, sequence.text.finish())
            reason = sequence.finished or FinishReason.STOP
            number, usage = sequence.job.number, sequence.usage()
            self._send(Done(number, reason, usage, self._speed.tokens_per_second))
            self._leave(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self._room.leave(sequence, self._context.remove)

    def _recover(self, code: int) -> None:
        """After a failed decode: end what can't go on, and leave a consistent memory."""
        if code == _NO_CELL:
            self._fail(self._room.sequences[-1:], "the model's memory is full")
            self._rewind()
            return
        self._failures += 1
        self._fail(list(self._room.sequences), f"llama.cpp failed to compute (code {code})")
        self._room.forget_prefixes(self._context.remove)
        self._context.clear()
        if self._failures >= _FAILURES_IN_A_ROW:
            raise EngineError(f"llama.cpp failed to compute {self._failures} times in a row")

    def _rewind(self) -> None:
        """The memory is as it was before the step: so must the positions be."""
        for lane in self._lanes():
            lane.position -= self._batch.counts.get(lane.slot, 0)

    def _fail(self, sequences: list[Sequence], message: str) -> None:
        for sequence in sequences:
            self._send(Refused(sequence.job.number, RefusalKind.FAILED, message))
            self._leave(sequence)
