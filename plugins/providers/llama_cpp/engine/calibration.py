"""How many threads, prompt tokens in one step, and what rows cost: estimated, then measured.

The measurement is short: a few steps of each kind for each number of threads that
makes sense, then some with several rows whose logits are wanted, as drafts have. What it
finds is kept with the model's record, so that the next load computes in the same pieces,
and need not measure. Where others kept the processor busy meanwhile, it says nothing of
the machine: the estimate holds until the next load.
"""

import time
from collections.abc import Iterator

from msgspec import Struct, structs

from plugins.providers.llama_cpp.host import host_resources, kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.protocol.messages import Configure
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS, StepCosts

_DECODED = 12
_REPEATED = 3
_STEP_S = 0.2
_WHOLE_S = 2.0
_ROWS_S = 1.0
# A request as it is typical: mostly read, then written.
_TYPICAL_PROMPT = 512
_TYPICAL_ANSWER = 128
# Fewer threads leave more to others, but have to be clearly better: a measurement is noisy.
_CLEARLY = 1.15
# The share of its threads' time that a measurement on an idle machine gets at least.
_UNDISTURBED = 0.75


class Pace(Struct, frozen=True):
    """What one step does, and the speeds of one sequence alone where they were measured."""

    threads: int
    chunk: int
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    costs: StepCosts = StepCosts()

    @property
    def typical_s(self) -> float:
        """Seconds for a typical request; without end where nothing was measured."""
        prefill, decode = self.prefill_tokens_per_second, self.decode_tokens_per_second
        if not prefill or not decode:
            return float("inf")
        return _TYPICAL_PROMPT / prefill + _TYPICAL_ANSWER / decode


def planned(configure: Configure, parameters: int) -> Pace:
    """What to set the context up for: the largest chunk where it is still to be measured."""
    threads = configure.threads or host_resources.usable_cpus()
    if configure.probe:
        return Pace(threads, kv_sizing.LARGEST_CHUNK)
    chunk = configure.chunk or kv_sizing.prefill_chunk(parameters, threads)
    return Pace(threads, chunk, costs=StepCosts(configure.row_costs))


def measured(configure: Configure, plan: Pace, model: Model, context: Context) -> Pace:
    """The plan, or with `probe` the best that measuring finds within about three seconds."""
    if not configure.probe:
        return plan
    prober = Prober(model, context, plan.chunk)
    try:
        first, *others = [
            prober.measure(threads)
            for threads in _candidates(configure.threads, plan.threads)
            if threads == plan.threads or prober.has_time
        ]
        estimate = Pace(plan.threads, kv_sizing.prefill_chunk(model.parameters, plan.threads))
        found = _chosen(model, first, others) if prober.undisturbed else estimate
        context.lib.llama_set_n_threads(context.handle, found.threads, found.threads)
        return structs.replace(found, costs=prober.costs()) if prober.undisturbed else found
    finally:
        prober.close()


def _chosen(model: Model, first: Pace, others: list[Pace]) -> Pace:
    best = min((first, *others), key=lambda pace: pace.typical_s)
    best = best if first.typical_s > best.typical_s * _CLEARLY else first
    estimate = kv_sizing.prefill_chunk(model.parameters, best.threads)
    chunk = kv_sizing.measured_chunk(estimate, best.prefill_tokens_per_second or 0.0)
    return structs.replace(best, chunk=chunk)


def _candidates(asked: int, usable: int) -> Iterator[int]:
    """All usable CPUs first, then half of them: two CPUs may be one core's two threads."""
    yield usable
    if not asked and usable > 1:
        yield usable // 2


class Prober:
    """Times steps of one sequence, and leaves the context empty.

    Of several steps of a kind the fastest counts: whatever else runs only slows.
    `undisturbed` tells whether the fastest ones had the processor for themselves.
    """

    def __init__(self, model: Model, context: Context, chunk: int) -> None:
        self._context, self._token = context, model.first_token or 0
        self._prompt = min(chunk, context.cells // 2)
        self._decoded = min(_DECODED, context.cells - self._prompt)
        self._most_rows = min(context.outputs, self._prompt, context.cells // _REPEATED)
        self._batch = Batch(context.lib, self._prompt)
        self._until = time.monotonic() + _WHOLE_S
        self.undisturbed = True

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self._until

    def measure(self, threads: int) -> Pace:
        """Speeds with so many threads, None where llama.cpp could not compute."""
        self._context.lib.llama_set_n_threads(self._context.handle, threads, threads)
        size = self._prompt_size()
        prefill, decode = self._prefill_rate(size, threads), self._decode_rate(size)
        self._context.clear()
        return Pace(threads, self._prompt, prefill, decode)

    def costs(self) -> StepCosts:
        """Of steps with more and more rows, as far as there is time for them."""
        until, times = time.monotonic() + _ROWS_S, list[float]()
        for rows in MEASURED_ROWS:
            if (times and time.monotonic() > until) or rows > self._most_rows:
                break
            self._context.clear()
            steps = (self._step_s(rows, at * rows, every=True) for at in range(_REPEATED))
            times.append(min(steps))
        self._context.clear()
        return StepCosts.relative(times)

    def close(self) -> None:
        self._batch.free()

    def _prompt_size(self) -> int:
        """As long a prompt as a slow machine computes within one step's time."""
        size = min(kv_sizing.SMALLEST_CHUNK, self._prompt)
        rate = size / self._step_s(size, 0)
        return max(size, min(self._prompt, int(rate * _STEP_S)))

    def _prefill_rate(self, size: int, threads: int) -> float | None:
        best, share = float("inf"), 0.0
        for at in range(_REPEATED):
            if at and not self.has_time:
                break
            self._context.clear()
            used = time.process_time()
            taken = self._step_s(size, 0)
            if taken < best:
                best, share = taken, (time.process_time() - used) / (taken * threads)
        self.undisturbed = self.undisturbed and share >= _UNDISTURBED
        return _per_second(size, best)

    def _decode_rate(self, position: int) -> float | None:
        best, until = float("inf"), time.monotonic() + _STEP_S
        for at in range(self._decoded):
            if at and time.monotonic() > until:
                break
            best = min(best, self._step_s(1, position + at))
        return _per_second(1, best)

    def _step_s(self, tokens: int, position: int, *, every: bool = False) -> float:
        """Seconds of one step; without end if llama.cpp could not compute it.

        The logits of its last row are wanted, or those of `every` row.
        """
        self._batch.clear()
        for at in range(tokens):
            self._batch.add(self._token, position + at, 0, wants_logits=every or at == tokens - 1)
        started = time.monotonic()
        if self._context.decode(self._batch):
            return float("inf")
        # The computation may go on in the background until its result is asked for.
        self._context.lib.llama_synchronize(self._context.handle)
        return max(time.monotonic() - started, 1e-9)


def _per_second(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds < float("inf") else None
