"""Who may use the engine's cells and sequence ids: admission, sharing and eviction.

A sequence is admitted only when every cell that it may ever need can be reserved, so
a running one never runs out. Prefixes stay after their last user, as long as nobody
needs their room.
"""

from collections.abc import Callable

from msgspec import Struct

from plugins.providers.llama_cpp.sequences import Job, Lane, Prefix, Sequence, common_length

# A shorter common beginning is computed again sooner than it is looked after.
SHORTEST_SHARED = 16
# Requests without a limit are granted this many tokens at a time.
OPEN_BLOCK = 512


class Plan(Struct, frozen=True):
    """How a job would be placed: on a prefix that exists, on one to make, or alone."""

    base: Prefix | None
    base_length: int
    makes_prefix: bool
    allowance: int
    cells: int


class Room:
    """The cells and the sequence ids of one context.

    Ids below `sequences` are for answers, as many again above them for prefixes.
    """

    def __init__(self, *, cells: int, sequences: int, context_tokens: int, divisible: bool) -> None:
        self.cells = cells
        self.context_tokens = context_tokens
        self.sequences: list[Sequence] = []
        self.prefixes: list[Prefix] = []
        self._divisible = divisible
        self._slots = list(range(sequences - 1, -1, -1))
        self._holders = list(range(2 * sequences - 1, sequences - 1, -1))
        self._clock = 0

    @property
    def free_cells(self) -> int:
        lanes: list[Lane] = [*self.sequences, *self.prefixes]
        return self.cells - sum(lane.reserved for lane in lanes)

    def place(self, job: Job, forget: Callable[[int], None]) -> tuple[Plan, int] | None:
        """Find room for a job, evicting idle prefixes if need be, or None for now.

        `forget(slot)` is called for each evicted prefix. The result is the plan and
        the slot of the answer; the caller builds the lanes with `enter`.
        """
        if not self._slots:
            return None
        while True:
            plan = self._plan(job)
            if plan.cells > self.free_cells:
                if not self._evict(forget, sparing=plan.base):
                    return None
            elif plan.makes_prefix and not self._holders:
                if not self._evict(forget, keeping=plan.base):
                    return self._alone(plan), self._slots.pop()
            else:
                return plan, self._slots.pop()

    @staticmethod
    def _alone(plan: Plan) -> Plan:
        """Where only a sequence id for a new prefix is missing, the job goes without one."""
        return Plan(plan.base, plan.base_length, False, plan.allowance, plan.cells)

    def enter_prefix(self, job: Job, plan: Plan) -> Prefix:
        """Make the plan's new prefix; `forget`ten when its last user is gone and room is needed."""
        tokens = job.tokens[:-1]
        prefix = Prefix(self._holders.pop(), tokens, job.owner, plan.base, plan.base_length)
        self.prefixes.append(prefix)
        self.touch(prefix)
        return prefix

    def touch(self, prefix: Prefix) -> None:
        self._clock += 1
        prefix.last_used = self._clock

    def leave(self, sequence: Sequence, forget: Callable[[int], None]) -> None:
        """Free an answer at once, and a prefix that nobody finished or waits for."""
        base = sequence.base
        sequence.release()
        sequence.sampler.close()
        self.sequences.remove(sequence)
        self.give_back(sequence.slot)
        forget(sequence.slot)
        while base is not None and not base.users and base.pending:
            base = self._drop(base, forget)

    def forget_prefixes(self, forget: Callable[[int], None]) -> None:
        """Drop every prefix that no answer is based on."""
        while self._evict(forget):
            pass

    def give_back(self, slot: int) -> None:
        """A slot that `place` took is free again."""
        self._slots.append(slot)

    def grow(self, sequence: Sequence, forget: Callable[[int], None]) -> bool:
        """Grant an answer without a limit more tokens, if there is room."""
        left = self.context_tokens - len(sequence.job.tokens) - sequence.allowance
        while (more := min(OPEN_BLOCK, left, self.free_cells)) < min(OPEN_BLOCK, left):
            if not self._evict(forget, sparing=sequence.base):
                break
        if sequence.job.max_tokens is not None or more <= 0:
            return False
        sequence.grow(more)
        return True

    def _plan(self, job: Job) -> Plan:
        prompt = len(job.tokens)
        open_end = min(OPEN_BLOCK, self.context_tokens - prompt)
        allowance = open_end if job.max_tokens is None else job.max_tokens
        base, common = self._nearest(job)
        covered = common == prompt - 1
        sharing = bool(job.owner) and prompt > SHORTEST_SHARED
        return Plan(
            base=base,
            base_length=common,
            makes_prefix=sharing and not covered,
            allowance=allowance,
            cells=prompt - common + allowance,
        )

    def _nearest(self, job: Job) -> tuple[Prefix | None, int]:
        """The prefix of the job's share key with the longest usable common beginning."""
        best: tuple[Prefix | None, int] = (None, 0)
        for prefix in self.prefixes:
            if not job.owner or prefix.key != job.owner:
                continue
            common = common_length(prefix.tokens, job.tokens[:-1])
            usable = self._divisible or common == len(prefix.tokens)
            if usable and common >= SHORTEST_SHARED and common > best[1]:
                best = (prefix, common)
        return best

    def _evict(
        self,
        forget: Callable[[int], None],
        *,
        sparing: Prefix | None = None,
        keeping: Prefix | None = None,
    ) -> bool:
        """Drop the idle prefix that was longest unused: `sparing` as the last, `keeping` never."""
        idle = [prefix for prefix in self.prefixes if not prefix.users and prefix is not keeping]
        if not idle:
            return False
        self._drop(min(idle, key=lambda prefix: (prefix is sparing, prefix.last_used)), forget)
        return True

    def _drop(self, prefix: Prefix, forget: Callable[[int], None]) -> Prefix | None:
        """Forget a prefix; returns what it was itself based on."""
        base = prefix.base
        prefix.release()
        self.prefixes.remove(prefix)
        self._holders.append(prefix.slot)
        forget(prefix.slot)
        return base
