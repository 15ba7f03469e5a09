"""Continuous batching: each step computes one token of every answer and a chunk of prompts.

Between two steps cancelled jobs leave and waiting ones enter, so neither waits for
another's answer to end. Owners take turns: see `turns`.
"""

from collections.abc import Callable, Iterator

from appliance.domain.messages import TokenUsage
from plugins.providers.llama_cpp.engine.decode_speed import SoloSpeed
from plugins.providers.llama_cpp.engine.fairness import Waiting, portions
from plugins.providers.llama_cpp.engine.kv_cache import Plan, Room
from plugins.providers.llama_cpp.engine.prefix_attach import Attaching
from plugins.providers.llama_cpp.engine.sequences import Job, Lane, Prefix, Sequence
from plugins.providers.llama_cpp.engine.token_emitter import Drawing
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
from plugins.providers.llama_cpp.speculation.speculation import Speculation
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts

_NO_CELL = 1
_FAILURES_IN_A_ROW = 3
_UNKNOWN = StepCosts()


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
        costs: StepCosts = _UNKNOWN,
    ) -> None:
        """`chunk` is how many prompt tokens a step computes; where `costs` are unknown nothing is
        drafted. Raises NativeError.
        """
        self._model, self._context, self._room = model, context, room
        self._chunk, self._stops, self._send = chunk, stops, send
        self._batch = Batch(model.lib, context.batch_tokens)
        self._speed, self._speculation = SoloSpeed(), Speculation(costs)
        self._drawing, self._attaching = (
            Drawing(model, context, room, send),
            Attaching(context, room),
        )
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
        self._attaching.attach()
        rows = self._fill()
        if not self._batch.size:
            return
        self._speed.begin()
        code = self._context.decode(self._batch)
        if code:
            self._recover(code)
            return
        self._failures = 0
        alone = len(rows) == 1 and len(self._batch.counts) == 1 and rows[0][0].decoding
        drawn = [self._drawing.draw(sequence, row) for sequence, row in rows]
        if alone:
            self._speed.end(drawn[0])
        self._drawing.finish(self._speed.tokens_per_second)

    def _drop_cancelled(self) -> None:
        """Each gets a last word with what it used, which is owed all the same."""
        for job in self.waiting.drop(lambda job: job.cancelled):
            self._send(Cancelled(job.number, TokenUsage()))
        for sequence in [each for each in self._room.sequences if each.job.cancelled]:
            self._send(Cancelled(sequence.job.number, sequence.used()))
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
        sequence = self._room.enter(job, plan, sampler=sampler, stops=self._stops)
        if self._speculation.possible:
            sequence.drafter = Drafter()

    def _lanes(self) -> Iterator[Lane]:
        yield from self._room.prefixes.nodes
        yield from self._room.sequences

    def _fill(self) -> list[tuple[Sequence, int]]:
        """Put this step's tokens into the batch; returns whose logits lie in which row."""
        self._batch.clear()
        rows: list[tuple[Sequence, int]] = []
        decoding = [each for each in self._room.sequences if each.decoding]
        pieces = list(self._prompt_pieces())
        self._draft(decoding, reading=sum(count for _, count in pieces))
        for sequence in decoding:
            rows.append((sequence, self._add_drawn(sequence)))
        for lane, count in pieces:
            row = self._add(lane, count)
            if isinstance(lane, Sequence) and not lane.pending:
                rows.append((lane, row))
            if isinstance(lane, Prefix):
                spare = self._context.batch_tokens - self._batch.size
                for sequence in self._attaching.join(lane, self._batch, count, spare):
                    rows.append((sequence, self._add(sequence, 1)))
        return rows

    def _draft(self, decoding: list[Sequence], *, reading: int) -> None:
        """Drafts take only rows that nobody needs in this step."""
        context = self._context
        unused = context.batch_tokens - len(decoding) - reading
        spare = min(unused, context.outputs - len(self._room.sequences))
        self._speculation.draft(decoding, reading=reading, spare=spare)

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

    def _add_drawn(self, sequence: Sequence) -> int:
        """Add the token drawn last, and the draft behind it; returns the first one's row."""
        tokens, start = [sequence.tokens[-1], *sequence.draft], sequence.position
        sequence.position += len(tokens)
        return self._batch.draft(tokens, start, sequence.slot)

    def _add(self, lane: Lane, count: int) -> int:
        """Add the next tokens of a lane; returns the last one's row."""
        start, end = lane.position, lane.position + count
        wanted = isinstance(lane, Sequence) and end == len(lane.tokens)
        lane.position = end
        return self._batch.extend(lane.tokens[start:end], start, lane.slot, wants_logits=wanted)

    def _recover(self, code: int) -> None:
        """After a failed decode: end what can't go on, and leave a consistent memory."""
        if code == _NO_CELL:
            self._drawing.fail(self._room.sequences[-1:], "the model's memory is full")
            self._rewind()
            return
        self._failures += 1
        self._drawing.fail(list(self._room.sequences), f"llama.cpp failed to compute (code {code})")
        self._room.forget_prefixes()
        self._context.clear()
        if self._failures >= _FAILURES_IN_A_ROW:
            raise EngineError(f"llama.cpp failed to compute {self._failures} times in a row")

    def _rewind(self) -> None:
        """The memory is as it was before the step: so must the positions be."""
        for lane in self._lanes():
            lane.position -= self._batch.counts.get(lane.slot, 0)
        self._attaching.undo()


def _shared_out(lanes: list[Lane], tokens: int) -> Iterator[tuple[Lane, int]]:
    """The first lanes' next tokens, so many in all."""
    for lane in lanes:
        count = min(tokens, lane.pending)
        tokens -= count
        if count:
            yield lane, count
