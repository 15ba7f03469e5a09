"""Allocation of the KV cache: who may use its cells and slots; admission, sharing, eviction.

A job is admitted only if every cell that it may ever need can be reserved, so a running answer
never runs out of cells. What no answer uses any more stays as a prefix until its cells are
needed.
"""

from collections import Counter

from msgspec import Struct

from plugins.providers.llama_cpp.engine.prefix_cache import MIN_SHARED_TOKENS, PrefixCache
from plugins.providers.llama_cpp.engine.sequences import Job, Prefix, Sequence
from plugins.providers.llama_cpp.native.bindings import Context
from plugins.providers.llama_cpp.sampling.sampler import Sampler

# Requests without a token limit, or with one that the context can't reach, get this many tokens
# at a time: to reserve the whole context would make all others wait.
ALLOWANCE_STEP = 512
# Slots per concurrent answer: its own, its prompt's prefix, and one kept for later. Each slot
# costs llama.cpp the memory for one row of logits.
SLOTS_PER_SEQUENCE = 3


class Placement(Struct, frozen=True):
    """Where a job goes: the prefix that it starts from, and the prefixes that it adds.

    `prefix_lengths` are those of the shared system message and of the prompt. `slot` is the
    answer's, -1 until it has one.
    """

    base: Prefix | None
    base_length: int
    prefix_lengths: tuple[int, ...]
    allowance: int
    cells: int
    slot: int = -1


class KvCache:
    """The cells and slots (sequence ids) of one context.

    At most `max_sequences` answers run at a time. `divisible`: a part of a sequence can be
    shared. `shiftable`: a sequence's oldest tokens can be dropped.
    """

    def __init__(
        self,
        context: Context,
        *,
        cells: int,
        max_sequences: int,
        slots: int,
        context_tokens: int,
        divisible: bool,
        shiftable: bool = False,
    ) -> None:
        self.cells = cells
        self.context_tokens = context_tokens
        self.sequences: list[Sequence] = []
        self._max_sequences, self._shiftable = max_sequences, shiftable
        self._context = context
        self._free_slots = list(range(slots - 1, -1, -1))
        self.prefixes = PrefixCache(context, self._free_slots, divisible=divisible)

    @property
    def entries(self) -> list[Prefix | Sequence]:
        """Prefixes, then answers."""
        return [*self.prefixes.nodes, *self.sequences]

    @property
    def free_cells(self) -> int:
        """Cells that are not reserved; idle prefixes count as reserved."""
        used = sum(sequence.reserved for sequence in self.sequences)
        return self.cells - used - self.prefixes.reserved

    def count_running(self) -> Counter[str]:
        """Number of running answers by owner."""
        return Counter(sequence.owner for sequence in self.sequences)

    def find_placement(self, job: Job) -> Placement | None:
        """Reserve a slot for a job, evicting idle prefixes if necessary; None if it must wait.

        The slot goes to `start_sequence` or back through `release_slot`.
        """
        if len(self.sequences) >= self._max_sequences:
            return None
        while True:
            placement = self._plan(job)
            if placement.cells > self.free_cells:
                if not self.prefixes.evict(last=placement.base):
                    return None
            elif len(self._free_slots) > len(placement.prefix_lengths):
                return self._take_slot(placement, placement.prefix_lengths)
            elif not self.prefixes.evict(never=placement.base):
                # If only slots for new prefixes are missing, the job does without these.
                return self._take_slot(placement, ()) if self._free_slots else None

    def start_sequence(
        self, job: Job, placement: Placement, *, sampler: Sampler, stops: tuple[str, ...]
    ) -> Sequence:
        """Add the placement's prefixes and the answer that continues them."""
        base, length = placement.base, placement.base_length
        for end in placement.prefix_lengths:
            base, length = self.prefixes.add(job.tokens[:end], job, base, length), end
        sequence = Sequence(
            placement.slot,
            job,
            base,
            length,
            allowance=placement.allowance,
            sampler=sampler,
            stops=stops,
        )
        self.sequences.append(sequence)
        return sequence

    def release_slot(self, slot: int) -> None:
        self._free_slots.append(slot)

    def finish_sequence(self, sequence: Sequence) -> None:
        """End an answer; its cells become a prefix if a later request may use them."""
        if not self.prefixes.keep(sequence):
            self.remove_sequence(sequence)
            return
        self.sequences.remove(sequence)
        sequence.close_sampler()

    def remove_sequence(self, sequence: Sequence) -> None:
        """Free an answer's cells, and those of a prefix that is not computed and not used."""
        base = sequence.base
        sequence.release_base()
        sequence.close_sampler()
        self.sequences.remove(sequence)
        self.release_slot(sequence.slot)
        self._context.remove(sequence.slot)
        self.prefixes.remove_unfinished(base)

    def evict_idle_prefixes(self) -> None:
        while self.prefixes.evict():
            pass

    def extend_allowance(self, sequence: Sequence) -> bool:
        """Reserve more cells for an answer than it was admitted with; False if there are none."""
        wanted = min(ALLOWANCE_STEP, self.context_tokens - len(sequence.tokens))
        while (tokens := min(wanted, self.free_cells)) < wanted:
            if not self.prefixes.evict(last=sequence.base):
                break
        if tokens <= 0:
            return False
        sequence.extend_allowance(tokens)
        return True

    def _plan(self, job: Job) -> Placement:
        prompt_tokens = len(job.tokens)
        available = self.context_tokens - prompt_tokens
        limit = job.max_tokens
        if limit is None or limit > available:
            limit = ALLOWANCE_STEP
        allowance = min(limit, available)
        base, common = (None, 0) if self._must_not_share(job) else self.prefixes.find_longest(job)
        lengths = tuple(length for length in self._prefix_lengths(job) if length > common)
        return Placement(base, common, lengths, allowance, prompt_tokens - common + allowance)

    def _must_not_share(self, job: Job) -> bool:
        """Shared cells can't be shifted, since a cell has one position for all who share it."""
        return self._shiftable and job.request.context_shift

    def _prefix_lengths(self, job: Job) -> list[int]:
        """Lengths of the prefixes that later jobs may share with this one."""
        longest = len(job.tokens) - 1
        if self._must_not_share(job):
            return []
        shared = min(job.shared_tokens, longest)
        lengths = [shared, longest] if job.owner and longest > shared else [shared]
        return [length for length in lengths if length >= MIN_SHARED_TOKENS]

    def _take_slot(self, placement: Placement, prefix_lengths: tuple[int, ...]) -> Placement:
        slot = self._free_slots.pop()
        base, length = placement.base, placement.base_length
        if base is not None and len(self._free_slots) > len(prefix_lengths):
            base = self.prefixes.split(base, length)
        return Placement(base, length, prefix_lengths, placement.allowance, placement.cells, slot)
