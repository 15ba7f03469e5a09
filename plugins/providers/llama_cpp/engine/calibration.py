"""Calibration of threads, prefill chunk and step costs: an estimate, then a measurement.

The measurement takes a few steps of each kind for each sensible number of threads, then some
with several rows whose logits are needed, as drafts have. The result is stored in the model's
load profile, so that the next load uses the same chunk and need not measure. If other processes
kept the CPU busy meanwhile, the result is discarded and the estimate used until the next load.
"""

import time
from collections.abc import Iterator

from msgspec import Struct, structs

from appliance.spi import host
from plugins.providers.llama_cpp.host import kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.protocol.messages import Configure
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS, StepCosts

_DECODE_STEPS = 12
_REPEATS = 3
_STEP_LIMIT_S = 0.2
_SPEED_LIMIT_S = 2.0
_COSTS_LIMIT_S = 1.0
# A typical request: a long prompt and a short answer.
_TYPICAL_PROMPT_TOKENS = 512
_TYPICAL_ANSWER_TOKENS = 128
# By what factor fewer threads must be faster to be chosen: a measurement is noisy.
_MIN_GAIN = 1.15
# Minimum share of the CPU time of its threads that a measurement gets on an idle machine.
_MIN_CPU_SHARE = 0.75


class Calibration(Struct, frozen=True):
    """How a step is computed, and the measured speeds of one sequence alone, if any."""

    threads: int
    chunk: int
    prefill_tokens_per_second: float | None = None
    decode_tokens_per_second: float | None = None
    costs: StepCosts = StepCosts()

    @property
    def typical_request_s(self) -> float:
        """Seconds for a typical request; infinite if nothing was measured."""
        prefill, decode = self.prefill_tokens_per_second, self.decode_tokens_per_second
        if not prefill or not decode:
            return float("inf")
        return _TYPICAL_PROMPT_TOKENS / prefill + _TYPICAL_ANSWER_TOKENS / decode


def estimate_calibration(configure: Configure, parameters: int) -> Calibration:
    """What to create the context for: the largest chunk if it is still to be measured."""
    threads = configure.threads or host.usable_cpus()
    if configure.probe:
        return Calibration(threads, kv_sizing.LARGEST_CHUNK)
    chunk = configure.chunk or kv_sizing.estimate_chunk(parameters, threads)
    return Calibration(threads, chunk, costs=StepCosts(configure.row_costs))


def calibrate(
    configure: Configure, estimate: Calibration, model: Model, context: Context
) -> Calibration:
    """The estimate, or with `probe` the best that measuring finds within about three seconds."""
    if not configure.probe:
        return estimate
    prober = Prober(model, context, estimate.chunk)
    try:
        all_cpus, *others = [
            prober.measure(threads)
            for threads in _thread_counts(configure.threads, estimate.threads)
            if threads == estimate.threads or prober.has_time
        ]
        if prober.undisturbed:
            best = _choose(model, all_cpus, others)
            _set_threads(context, best.threads)
            return structs.replace(best, costs=prober.measure_costs())
        _set_threads(context, estimate.threads)
        chunk = kv_sizing.estimate_chunk(model.parameters, estimate.threads)
        return Calibration(estimate.threads, chunk)
    finally:
        prober.close()


def _set_threads(context: Context, threads: int) -> None:
    context.lib.llama_set_n_threads(context.handle, threads, threads)


def _choose(model: Model, first: Calibration, others: list[Calibration]) -> Calibration:
    best = min((first, *others), key=lambda each: each.typical_request_s)
    best = best if first.typical_request_s > best.typical_request_s * _MIN_GAIN else first
    estimate = kv_sizing.estimate_chunk(model.parameters, best.threads)
    chunk = kv_sizing.correct_chunk(estimate, best.prefill_tokens_per_second or 0.0)
    return structs.replace(best, chunk=chunk)


def _thread_counts(configured: int, usable: int) -> Iterator[int]:
    """All usable CPUs first, then half of them: two CPUs may be two threads of one core."""
    yield usable
    if not configured and usable > 1:
        yield usable // 2


class Prober:
    """Times steps of one sequence, and leaves the context empty.

    Of several steps of a kind the fastest counts, since other processes only slow them down.
    `undisturbed` tells whether the fastest ones had the CPU for themselves.
    """

    def __init__(self, model: Model, context: Context, chunk: int) -> None:
        self._context, self._token = context, model.bos_token or 0
        self._prompt_limit = min(chunk, context.cells // 2)
        self._decode_steps = min(_DECODE_STEPS, context.cells - self._prompt_limit)
        self._max_rows = min(context.outputs, self._prompt_limit, context.cells // _REPEATS)
        self._batch = Batch(context.lib, self._prompt_limit)
        self._deadline = time.monotonic() + _SPEED_LIMIT_S
        self.undisturbed = True

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self._deadline

    def measure(self, threads: int) -> Calibration:
        """Speeds with this number of threads, None if llama.cpp could not compute."""
        _set_threads(self._context, threads)
        size = self._choose_prompt_size()
        prefill, decode = self._measure_prefill(size, threads), self._measure_decode(size)
        self._context.clear()
        return Calibration(threads, self._prompt_limit, prefill, decode)

    def measure_costs(self) -> StepCosts:
        """Costs of steps with more and more rows, as far as time allows."""
        deadline, times = time.monotonic() + _COSTS_LIMIT_S, list[float]()
        for rows in MEASURED_ROWS:
            if (times and time.monotonic() > deadline) or rows > self._max_rows:
                break
            self._context.clear()
            steps = (self._step_s(rows, at * rows, all_logits=True) for at in range(_REPEATS))
            times.append(min(steps))
        self._context.clear()
        return StepCosts.from_seconds(times)

    def close(self) -> None:
        self._batch.free()

    def _choose_prompt_size(self) -> int:
        """The longest prompt that this machine computes within the limit for a step."""
        size = min(kv_sizing.SMALLEST_CHUNK, self._prompt_limit)
        rate = size / self._step_s(size, 0)
        return max(size, min(self._prompt_limit, int(rate * _STEP_LIMIT_S)))

    def _measure_prefill(self, size: int, threads: int) -> float | None:
        best, share = float("inf"), 0.0
        for at in range(_REPEATS):
            if at and not self.has_time:
                break
            self._context.clear()
            cpu_before = time.process_time()
            seconds = self._step_s(size, 0)
            if seconds < best:
                best, share = seconds, (time.process_time() - cpu_before) / (seconds * threads)
        self.undisturbed = self.undisturbed and share >= _MIN_CPU_SHARE
        return _per_second(size, best)

    def _measure_decode(self, position: int) -> float | None:
        best, deadline = float("inf"), time.monotonic() + _STEP_LIMIT_S
        for at in range(self._decode_steps):
            if at and time.monotonic() > deadline:
                break
            best = min(best, self._step_s(1, position + at))
        return _per_second(1, best)

    def _step_s(self, tokens: int, position: int, *, all_logits: bool = False) -> float:
        """Seconds of one step; infinite if llama.cpp could not compute it.

        It computes the logits of its last row, or of all.
        """
        self._batch.clear()
        for at in range(tokens):
            wants_logits = all_logits or at == tokens - 1
            self._batch.add(self._token, position + at, 0, wants_logits=wants_logits)
        started = time.monotonic()
        if self._context.decode(self._batch):
            return float("inf")
        # The computation may continue in the background until its result is read.
        self._context.lib.llama_synchronize(self._context.handle)
        return max(time.monotonic() - started, 1e-9)


def _per_second(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if seconds < float("inf") else None
