"""When an answer, or a longer prefix, gets the shared beginning that it waits for.

It gets it as soon as that is computed, and where only its own last token is missing then,
even in the step that computes it: the tokens that complete the beginning are computed for
all who wait, and their last tokens with them. A step with one row costs almost as much as
one with some more, so this is felt in the time to the first token.
"""

from plugins.providers.llama_cpp.engine.kv_cache import Room
from plugins.providers.llama_cpp.engine.prefix_cache import can_start
from plugins.providers.llama_cpp.engine.sequences import Lane, Prefix, Sequence
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context


class Attaching:
    """Lets lanes share the memory of what they rest on."""

    def __init__(self, context: Context, room: Room) -> None:
        self._context, self._room = context, room
        self._joined: list[Sequence] = []

    def attach(self) -> None:
        """Whoever waits for something that is computed."""
        self._joined = []
        for lane in (*self._room.prefixes.nodes, *self._room.sequences):
            if lane.attached or lane.base is None or not can_start(lane):
                continue
            if lane.on_whole_base:
                self._context.copy_all(lane.base.slot, lane.slot)
            else:
                self._context.copy(lane.base.slot, lane.slot, lane.base_length)
            self._settle(lane, lane.base)

    def join(self, prefix: Prefix, batch: Batch, count: int, spare: int) -> list[Sequence]:
        """At most `spare` answers that wait for this prefix, whose last `count` rows complete it.

        They share these rows, and have their last token still to add.
        """
        if prefix.pending or not self._room.prefixes.divisible:
            return []
        waiting = [each for each in self._room.sequences if _lacks_one(each, prefix)][:spare]
        for sequence in waiting:
            self._context.copy(prefix.slot, sequence.slot, prefix.position - count)
            self._settle(sequence, prefix)
        if waiting:
            batch.share(count, prefix.slot, [sequence.slot for sequence in waiting])
        self._joined += waiting
        return waiting

    def undo(self) -> None:
        """The step was not computed: those who joined it wait again."""
        for sequence in self._joined:
            if sequence in self._room.sequences:
                self._context.remove(sequence.slot)
                if sequence.base is not None and sequence.cached < sequence.base_length:
                    sequence.base.charged = False
                sequence.attached, sequence.position, sequence.cached = False, 0, 0
        self._joined = []

    def _settle(self, lane: Lane, base: Prefix) -> None:
        lane.attached, lane.position = True, lane.base_length
        self._room.prefixes.touch(base)
        if isinstance(lane, Sequence):
            lane.cached = base.charge() if lane.on_whole_base else lane.base_length


def _lacks_one(sequence: Sequence, prefix: Prefix) -> bool:
    whole = sequence.base is prefix and sequence.on_whole_base and not sequence.attached
    return whole and len(sequence.tokens) == sequence.base_length + 1
