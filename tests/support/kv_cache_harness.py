"""A KV cache over plain lists, with the steps that the batcher performs around it."""

from collections.abc import Iterator
from typing import cast

from appliance.domain.messages import CompletionRequest
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sequences import CacheEntry, Job, Sequence
from plugins.providers.llama_cpp.native.bindings import Context
from plugins.providers.llama_cpp.sampling.sampler import Sampler


class ListContext:
    """The cells of each slot in order; a cell is a list of one token, so that it has an id."""

    def __init__(self) -> None:
        self.cells: dict[int, list[list[int]]] = {}
        self.removed: list[int] = []

    @property
    def used(self) -> int:
        """Number of cells that at least one sequence has."""
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


class KvCacheHarness:
    """A KV cache, its context, and jobs that start and end."""

    def __init__(
        self,
        *,
        cells: int = 1000,
        sequences: int = 2,
        slots: int = 0,
        divisible: bool = True,
        shiftable: bool = False,
    ) -> None:
        self.context = ListContext()
        self.kv_cache = KvCache(
            cast("Context", self.context),
            cells=cells,
            max_sequences=sequences,
            slots=slots or SLOTS_PER_SEQUENCE * sequences,
            context_tokens=cells,
            divisible=divisible,
            shiftable=shiftable,
        )

    def start(
        self,
        tokens: list[int],
        *,
        max_tokens: int | None = 10,
        key: str = "",
        shared: int = 0,
        shift: bool = False,
    ) -> Sequence | None:
        """The job's sequence, None if it must wait."""
        request = CompletionRequest("m", max_tokens=max_tokens, owner=key, context_shift=shift)
        job = Job(1, request)
        job.tokens, job.shared_tokens = tokens, shared
        placement = self.kv_cache.find_placement(job)
        if placement is None:
            return None
        return self.kv_cache.start_sequence(
            job, placement, sampler=cast("Sampler", _NoSampler()), stops=()
        )

    def compute(self) -> None:
        """Compute every pending token."""
        while entries := [entry for entry in self.entries() if entry.pending and entry.base_ready]:
            for entry in entries:
                self.advance(entry, entry.pending)

    def advance(self, entry: CacheEntry, count: int) -> None:
        """Attach the entry if necessary, and compute its next tokens."""
        if not entry.attached and entry.base is not None:
            self.context.copy(entry.base.slot, entry.slot, entry.base_length)
            entry.attached, entry.position = True, entry.base_length
        end = min(entry.position + count, len(entry.tokens))
        self.context.write(entry.slot, entry.tokens[entry.position : end])
        entry.position = end

    def answer(self, sequence: Sequence, tokens: list[int]) -> None:
        """Let it generate these tokens; the last one is not computed."""
        self.compute()
        sequence.tokens += tokens
        sequence.generated_tokens += len(tokens)
        self.advance(sequence, len(tokens) - 1)

    def entries(self) -> Iterator[CacheEntry]:
        yield from self.kv_cache.prefixes.nodes
        yield from self.kv_cache.sequences

    def check(self) -> None:
        """The context must hold what the KV cache assumes, in at most the reserved cells."""
        for entry in self.entries():
            if entry.attached:
                assert self.context.tokens(entry.slot) == entry.tokens[: entry.position]
            assert entry.reserved >= 0
        assert self.context.used <= self.kv_cache.cells - self.kv_cache.free_cells
        assert self.kv_cache.free_cells >= 0
        slots = [entry.slot for entry in self.entries()]
        assert len(slots) == len(set(slots))
        for node in self.kv_cache.prefixes.nodes:
            assert node.users == sum(entry.base is node for entry in self.entries())
