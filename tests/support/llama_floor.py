"""A room over a memory of plain lists, with the steps that the batcher does around it."""

from collections.abc import Iterator
from typing import cast

from appliance.domain.messages import CompletionRequest
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, Room
from plugins.providers.llama_cpp.engine.prefix_cache import can_start
from plugins.providers.llama_cpp.engine.sequences import Job, Lane, Sequence
from plugins.providers.llama_cpp.sampling.sampler import Sampler


class ListMemory:
    """Each sequence id's cells in order; a cell is a list of one token, so that it has an id."""

    def __init__(self) -> None:
        self.cells: dict[int, list[list[int]]] = {}
        self.removed: list[int] = []

    @property
    def used(self) -> int:
        """Cells that at least one sequence has."""
        return len({id(cell) for cells in self.cells.values() for cell in cells})

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.cells.get(target)
        assert len(self.cells[source]) >= length
        self.cells[target] = self.cells[source][:length]

    def remove(self, sequence: int) -> None:
        self.removed.append(sequence)
        self.cells.pop(sequence, None)

    def write(self, sequence: int, tokens: list[int]) -> None:
        self.cells.setdefault(sequence, []).extend([token] for token in tokens)

    def tokens(self, sequence: int) -> list[int]:
        return [cell[0] for cell in self.cells.get(sequence, [])]


class _NoSampler:
    def close(self) -> None:
        """Nothing to free."""


class Floor:
    """A room, its memory, and jobs that enter and leave."""

    def __init__(
        self,
        *,
        cells: int = 1000,
        sequences: int = 2,
        slots: int = 0,
        divisible: bool = True,
        shiftable: bool = False,
    ) -> None:
        self.memory = ListMemory()
        self.room = Room(
            self.memory,
            cells=cells,
            sequences=sequences,
            slots=slots or SLOTS_PER_SEQUENCE * sequences,
            context_tokens=cells,
            divisible=divisible,
            shiftable=shiftable,
        )

    def enter(
        self,
        tokens: list[int],
        *,
        max_tokens: int | None = 10,
        key: str = "",
        shared: int = 0,
        shift: bool = False,
    ) -> Sequence | None:
        """The job's answer, None if it has to wait."""
        request = CompletionRequest("m", max_tokens=max_tokens, owner=key, context_shift=shift)
        job = Job(1, request)
        job.tokens, job.shared_tokens = tokens, shared
        plan = self.room.place(job)
        if plan is None:
            return None
        return self.room.enter(job, plan, sampler=cast("Sampler", _NoSampler()), stops=())

    def compute(self) -> None:
        """Everything that is known but not in the memory yet."""
        while lanes := [lane for lane in self.lanes() if lane.pending and can_start(lane)]:
            for lane in lanes:
                self.advance(lane, lane.pending)

    def advance(self, lane: Lane, count: int) -> None:
        """Attach the lane if need be, and compute its next tokens."""
        if not lane.attached and lane.base is not None:
            self.memory.copy(lane.base.slot, lane.slot, lane.base_length)
            lane.attached, lane.position = True, lane.base_length
        done = min(lane.position + count, len(lane.tokens))
        self.memory.write(lane.slot, lane.tokens[lane.position : done])
        lane.position = done

    def answer(self, sequence: Sequence, tokens: list[int]) -> None:
        """Let it draw these tokens; the last one is never computed."""
        self.compute()
        sequence.tokens += tokens
        sequence.generated += len(tokens)
        self.advance(sequence, len(tokens) - 1)

    def lanes(self) -> Iterator[Lane]:
        yield from self.room.prefixes.nodes
        yield from self.room.sequences

    def check(self) -> None:
        """The memory holds what the room believes, in no more cells than are reserved."""
        for lane in self.lanes():
            if lane.attached:
                assert self.memory.tokens(lane.slot) == lane.tokens[: lane.position]
            assert lane.reserved >= 0
        assert self.memory.used <= self.room.cells - self.room.free_cells
        assert self.room.free_cells >= 0
        slots = [lane.slot for lane in self.lanes()]
        assert len(slots) == len(set(slots))
        for node in self.room.prefixes.nodes:
            assert node.users == sum(lane.base is node for lane in self.lanes())
