"""Continuous batching: each step computes one token of every answer and a chunk of prompts.

Between two steps cancelled jobs leave and waiting ones enter, so neither waits for
another's answer to end. Owners take turns: see `turns`.
"""

from collections.abc import Callable, Iterator

from appliance.domain.messages import FinishReason
from plugins.providers.llama_cpp.native import Batch, Context, Model, NativeError
from plugins.providers.llama_cpp.prefixes import can_start
from plugins.providers.llama_cpp.protocol import Done, FromEngine, RefusalKind, Refused, Text
from plugins.providers.llama_cpp.room import Plan, Room
from plugins.providers.llama_cpp.sampling import Sampler
from plugins.providers.llama_cpp.sequences import Job, Lane, Sequence
from plugins.providers.llama_cpp.shifting import shifted
from plugins.providers.llama_cpp.speed import SoloSpeed
from plugins.providers.llama_cpp.turns import Waiting, portions

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
        """`chunk` is how many prompt tokens a step computes. Raises NativeError."""
        self._model, self._context, self._room = model, context, room
        self._chunk, self._stops, self._send = chunk, stops, send
        self._batch = Batch(model.lib, context.batch_tokens)
        self._speed = SoloSpeed()
        self._failures = 0
        self.waiting = Waiting()

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
        self.waiting.drop(lambda job: job.cancelled)
        for sequence in [each for each in self._room.sequences if each.job.cancelled]:
            self._room.leave(sequence)

    def _admit(self) -> None:
        while (job := self.waiting.first(self._room.running())) is not None:
            plan = self._room.place(job)
            if plan is None:
                return
            self.waiting.take(job)
            self._enter(job, plan)

    def _enter(self, job: Job, plan: Plan) -> None:
        request = job.request
        try:
            sampler = Sampler(self._model, request.sampling, job.tokens, request.output.grammar)
        except NativeError as error:
            self._room.give_back(plan.slot)
            self._send(Refused(job.number, RefusalKind.FAILED, str(error)))
            return
        self._room.enter(job, plan, sampler=sampler, stops=self._stops)

    def _attach(self) -> None:
        """Give lanes their shared beginning as soon as that is computed."""
        for lane in self._lanes():
            base = lane.base
            if lane.attached or base is None or not can_start(lane):
                continue
            if lane.on_whole_base:
                self._context.copy_all(base.slot, lane.slot)
            else:
                self._context.copy(base.slot, lane.slot, lane.base_length)
            lane.attached, lane.position = True, lane.base_length
            self._room.prefixes.touch(base)
            if isinstance(lane, Sequence):
                lane.cached = base.charge() if lane.on_whole_base else lane.base_length

    def _lanes(self) -> Iterator[Lane]:
        yield from self._room.prefixes.nodes
        yield from self._room.sequences

    def _fill(self) -> list[tuple[Sequence, int]]:
        """Put this step's tokens into the batch; returns whose logits lie in which row."""
        self._batch.clear()
        rows: list[tuple[Sequence, int]] = []
        for sequence in self._room.sequences:
            if sequence.decoding:
                rows.append((sequence, self._add(sequence, 1)))
        for lane, count in self._prompt_pieces():
            row = self._add(lane, count)
            if isinstance(lane, Sequence) and not lane.pending:
                rows.append((lane, row))
        return rows

    def _prompt_pieces(self) -> Iterator[tuple[Lane, int]]:
        """Which prompts go on in this step by how many tokens: one chunk in all."""
        lanes: dict[str, list[Lane]] = {}
        for lane in self._lanes():
            reading = not (isinstance(lane, Sequence) and lane.decoding)
            if reading and lane.attached and lane.pending:
                lanes.setdefault(lane.owner, []).append(lane)
        wanted = {owner: sum(lane.pending for lane in lanes[owner]) for owner in lanes}
        for owner, granted in portions(wanted, self._chunk).items():
            yield from _shared_out(lanes[owner], granted)

    def _add(self, lane: Lane, count: int) -> int:
        """Add the next tokens of a lane; returns the last one's row."""
        start, end = lane.position, lane.position + count
        wanted = isinstance(lane, Sequence) and end == len(lane.tokens)
        lane.position = end
        return self._batch.extend(lane.tokens[start:end], start, lane.slot, wants_logits=wanted)

    def _draw(self, sequence: Sequence, row: int) -> None:
        try:
            drawn = sequence.sampler.draw(self._context, row)
        except NativeError as error:
            self._fail([sequence], str(error))
            return
        sequence.generated += 1
        if self._model.ends_generation(drawn.token):
            sequence.finished = FinishReason.STOP
            return
        sequence.tokens.append(drawn.token)
        piece = self._model.piece(drawn.token)
        self._show(sequence, sequence.text.push(piece, drawn.likelihood))
        if sequence.text.stopped:
            sequence.finished = FinishReason.STOP
        elif sequence.ended_by_limit or not self._may_go_on(sequence):
            sequence.finished = FinishReason.LENGTH

    def _may_go_on(self, sequence: Sequence) -> bool:
        """Whether there is a cell for the token just drawn and for the next."""
        if sequence.generated < sequence.allowance or self._room.grow(sequence):
            return True
        return shifted(sequence, self._context)

    def _show(self, sequence: Sequence, text: str) -> None:
        told = sequence.text.told()
        if text or told:
            self._send(Text(sequence.job.number, text, told))

    def _finish(self) -> None:
        for sequence in [each for each in self._room.sequences if each.finished]:
            self._show(sequence, sequence.text.finish())
            reason = sequence.finished or FinishReason.STOP
            number, usage = sequence.job.number, sequence.usage()
            speed, stop = self._speed.tokens_per_second, sequence.text.stop
            self._send(Done(number, reason, usage, speed, stop))
            self._room.retire(sequence)

    def _recover(self, code: int) -> None:
        """After a failed decode: end what can't go on, and leave a consistent memory."""
        if code == _NO_CELL:
            self._fail(self._room.sequences[-1:], "the model's memory is full")
            self._rewind()
            return
        self._failures += 1
        self._fail(list(self._room.sequences), f"llama.cpp failed to compute (code {code})")
        self._room.forget_prefixes()
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
            self._room.leave(sequence)


def _shared_out(lanes: list[Lane], tokens: int) -> Iterator[tuple[Lane, int]]:
    """The first lanes' next tokens, so many in all."""
    for lane in lanes:
        count = min(tokens, lane.pending)
        tokens -= count
        if count:
            yield lane, count
