"""Who may use the engine's cells and sequence ids: admission, sharing and eviction.

An answer is admitted only when every cell that it may ever need can be reserved, so
a running one never runs out. What nobody needs any more stays as a prefix, as long as
nobody needs its room.
"""

from collections import Counter

from msgspec import Struct

from plugins.providers.llama_cpp.engine.prefix_cache import SHORTEST_SHARED, Memory, Prefixes
from plugins.providers.llama_cpp.engine.sequences import Job, Prefix, Sequence
from plugins.providers.llama_cpp.sampling.sampler import Sampler

# Requests without a limit are granted this many tokens at a time.
OPEN_BLOCK = 512
# Sequence ids for each answer that may run: its own, its prompt's, and one to keep. Each
# costs llama.cpp the memory for one row of logits.
SLOTS_PER_SEQUENCE = 3


class Plan(Struct, frozen=True):
    """How a job would be placed: what it starts from, and the prefixes that it makes.

    `ends` are their lengths: of the system message that everybody may share, and of the
    prompt. `slot` is the answer's id, once it has one.
    """

    base: Prefix | None
    base_length: int
    ends: tuple[int, ...]
    allowance: int
    cells: int
    slot: int = -1


class Room:
    """The cells and the sequence ids (`slots`) of one context.

    `sequences` answers may run at a time. `shiftable`: the memory can forget a
    sequence's oldest tokens.
    """

    def __init__(
        self,
        memory: Memory,
        *,
        cells: int,
        sequences: int,
        slots: int,
        context_tokens: int,
        divisible: bool,
        shiftable: bool = False,
    ) -> None:
        self.cells = cells
        self.context_tokens = context_tokens
        self.sequences: list[Sequence] = []
        self._most, self._shiftable = sequences, shiftable
        self._memory = memory
        self._slots = list(range(slots - 1, -1, -1))
        self.prefixes = Prefixes(memory, self._slots, divisible=divisible)

    @property
    def free_cells(self) -> int:
        """Cells that nothing is reserved for; idle prefixes count as taken."""
        taken = sum(sequence.reserved for sequence in self.sequences)
        return self.cells - taken - self.prefixes.reserved

    def running(self) -> Counter[str]:
        """How many answers each owner has running."""
        return Counter(sequence.owner for sequence in self.sequences)

    def place(self, job: Job) -> Plan | None:
        """Find room for a job, evicting idle prefixes if need be, or None for now.

        The plan holds a slot: it is used by `enter`, or given back.
        """
        if len(self.sequences) >= self._most:
            return None
        while True:
            plan = self._plan(job)
            if plan.cells > self.free_cells:
                if not self.prefixes.evict(sparing=plan.base):
                    return None
            elif len(self._slots) > len(plan.ends):
                return self._settled(plan, plan.ends)
            elif not self.prefixes.evict(keeping=plan.base):
                # Where only ids for new prefixes are missing, the job goes without them.
                return self._settled(plan, ()) if self._slots else None

    def enter(self, job: Job, plan: Plan, *, sampler: Sampler, stops: tuple[str, ...]) -> Sequence:
        """Make the plan's prefixes and the answer that rests on them."""
        base, length = plan.base, plan.base_length
        for end in plan.ends:
            base, length = self.prefixes.add(job.tokens[:end], job, (base, length)), end
        allowance = plan.allowance
        sequence = Sequence(
            plan.slot, job, base, length, allowance=allowance, sampler=sampler, stops=stops
        )
        self.sequences.append(sequence)
        return sequence

    def give_back(self, slot: int) -> None:
        """A slot that `place` took is free again."""
        self._slots.append(slot)

    def retire(self, sequence: Sequence) -> None:
        """A finished answer's memory becomes a prefix, if somebody may use it again."""
        if not self.prefixes.keep(sequence):
            self.leave(sequence)
            return
        self.sequences.remove(sequence)
        sequence.sampler.close()

    def leave(self, sequence: Sequence) -> None:
        """Free an answer at once, and a prefix that nobody finished or waits for."""
        base = sequence.base
        sequence.release()
        sequence.sampler.close()
        self.sequences.remove(sequence)
        self.give_back(sequence.slot)
        self._memory.remove(sequence.slot)
        self.prefixes.drop_unfinished(base)

    def forget_prefixes(self) -> None:
        """Drop every prefix that no answer is based on."""
        while self.prefixes.evict():
            pass

    def grow(self, sequence: Sequence) -> bool:
        """Grant an answer more tokens than it was admitted with, if there is room."""
        wanted = min(OPEN_BLOCK, self.context_tokens - len(sequence.tokens))
        while (more := min(wanted, self.free_cells)) < wanted:
            if not self.prefixes.evict(sparing=sequence.base):
                break
        if more <= 0:
            return False
        sequence.grow(more)
        return True

    def _plan(self, job: Job) -> Plan:
        prompt = len(job.tokens)
        left = self.context_tokens - prompt
        allowance = min(OPEN_BLOCK if job.max_tokens is None else job.max_tokens, left)
        base, common = (None, 0) if self._runs_alone(job) else self.prefixes.nearest(job)
        ends = tuple(end for end in self._ends(job) if end > common)
        return Plan(base, common, ends, allowance, prompt - common + allowance)

    def _runs_alone(self, job: Job) -> bool:
        """Shared cells can't be shifted: their position is that of all who share them."""
        return self._shiftable and job.request.context_shift

    def _ends(self, job: Job) -> list[int]:
        """The lengths of the prefixes that later jobs may share with this one."""
        most = len(job.tokens) - 1
        if self._runs_alone(job):
            return []
        shared = min(job.shared_tokens, most)
        ends = [shared, most] if job.owner and most > shared else [shared]
        return [end for end in ends if end >= SHORTEST_SHARED]

    def _settled(self, plan: Plan, ends: tuple[int, ...]) -> Plan:
        slot = self._slots.pop()
        base = plan.base and self._cut(plan.base, plan.base_length, spare=len(ends))
        return Plan(base, plan.base_length, ends, plan.allowance, plan.cells, slot)

    def _cut(self, base: Prefix, length: int, *, spare: int) -> Prefix:
        return self.prefixes.cut(base, length) if len(self._slots) > spare else base
