"""From a step's logits to the text of answers: draw, show, and see where an answer ends."""

from collections.abc import Callable

from appliance.domain.messages import FinishReason
from plugins.providers.llama_cpp.engine.context_shift import shifted
from plugins.providers.llama_cpp.engine.kv_cache import Room
from plugins.providers.llama_cpp.engine.sequences import Sequence
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import (
    Done,
    FromEngine,
    RefusalKind,
    Refused,
    Text,
)


class Drawing:
    """Draws the next tokens of answers; `send` gets what the server has to hear of them."""

    def __init__(
        self, model: Model, context: Context, room: Room, send: Callable[[FromEngine], None]
    ) -> None:
        self._model, self._context, self._room, self._send = model, context, room, send

    def draw(self, sequence: Sequence, row: int) -> int:
        """Draw from this row of the step, and from those of a draft for as long as it holds.

        Returns how many tokens were drawn. An answer that can't go on is refused.
        """
        draft, before = sequence.draft, sequence.generated
        sequence.draft, rejected = [], len(draft)
        sequence.position -= rejected
        try:
            self._draw_one(sequence, row)
            for at, token in enumerate(draft, 1):
                if sequence.finished or sequence.tokens[-1] != token:
                    break
                sequence.position += 1
                rejected -= 1
                self._draw_one(sequence, row + at)
            if rejected:
                self._context.cut(sequence.slot, sequence.position)
        except NativeError as error:
            self.fail([sequence], str(error))
        sequence.drafted += len(draft)
        sequence.accepted += len(draft) - rejected
        return sequence.generated - before

    def finish(self, speed: float | None) -> None:
        """Tell the ends of finished answers, with the speed of one alone, and free their room."""
        for sequence in [each for each in self._room.sequences if each.finished]:
            self._show(sequence, sequence.text.finish())
            reason = sequence.finished or FinishReason.STOP
            number, usage = sequence.job.number, sequence.usage()
            self._send(Done(number, reason, usage, speed, sequence.text.stop))
            self._room.retire(sequence)

    def fail(self, sequences: list[Sequence], message: str) -> None:
        """Refuse answers that were begun."""
        for sequence in sequences:
            self._send(Refused(sequence.job.number, RefusalKind.FAILED, message))
            self._room.leave(sequence)

    def _draw_one(self, sequence: Sequence, row: int) -> None:
        """Raises NativeError where no token can be drawn."""
        drawn = sequence.sampler.draw(self._context, row)
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
        elif sequence.drafter is not None:
            sequence.drafter.observe(sequence.tokens)

    def _may_go_on(self, sequence: Sequence) -> bool:
        """Whether there is a cell for the token just drawn and for the next."""
        if sequence.generated < sequence.allowance or self._room.grow(sequence):
            return True
        return shifted(sequence, self._context)

    def _show(self, sequence: Sequence, text: str) -> None:
        told = sequence.text.told()
        if text or told:
            self._send(Text(sequence.job.number, text, told))
