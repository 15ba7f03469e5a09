"""Worker threads that sample the tokens of costly grammars, so that the decode loop goes on.

A sequence whose token is being sampled is in no batch until the token is there: a costly grammar
slows down its own answer. Samples that are known to take long have threads of their own, so that
the others don't wait behind them.
"""

import time
from collections.abc import Collection
from concurrent.futures import ALL_COMPLETED, Future, ThreadPoolExecutor, wait

from appliance.spi import host
from plugins.providers.llama_cpp.native.bindings import NativeError
from plugins.providers.llama_cpp.sampling.sampler import SampledToken, Sampler

# By how much all samples of a step may delay the next.
_STEP_WAIT_S = 0.01
# The time for one token after which its answer is ended, and after which the engine is: nothing
# else can end the thread.
_MAX_SAMPLE_S = 20.0
_MAX_THREAD_S = 60.0


class SamplingStalled(Exception):
    """A worker thread hangs; only a new process can help."""


class PendingSample:
    """A sample that a worker takes; until it is `done`, no other thread may use the sampler."""

    def __init__(self, sampler: Sampler, workers: ThreadPoolExecutor) -> None:
        self.slow = sampler.slow
        self.started_at = 0.0
        self._sampler = sampler
        self.future: Future[SampledToken] = workers.submit(self._run)

    @property
    def done(self) -> bool:
        return self.future.done() or self.seconds > _MAX_SAMPLE_S

    @property
    def seconds(self) -> float:
        """How long it has been running."""
        return time.monotonic() - self.started_at if self.started_at else 0.0

    def result(self) -> SampledToken:
        """The token, once it is `done`. Raises NativeError as Sampler.finish_sample does."""
        if not self.future.done():
            raise NativeError(f"the output format took over {_MAX_SAMPLE_S:g} s for one token")
        return self.future.result()

    def close(self) -> None:
        """Nobody waits for it any more: close the sampler as soon as no worker uses it."""
        self.future.cancel()
        self.future.add_done_callback(lambda _: self._sampler.close())

    def _run(self) -> SampledToken:
        self.started_at = time.monotonic()
        return self._sampler.finish_sample()


class SamplingPool:
    """Creates its threads when they are needed. Only one thread may use it."""

    def __init__(self) -> None:
        count = max(1, host.usable_cpus() // 2)
        self._quick, self._slow = (
            ThreadPoolExecutor(count, thread_name_prefix=name) for name in ("sample", "slow")
        )
        self._running: list[PendingSample] = []

    def start(self, sampler: Sampler) -> PendingSample:
        """Let a worker call `finish_sample`."""
        pending = PendingSample(sampler, self._slow if sampler.slow else self._quick)
        self._running.append(pending)
        return pending

    def wait(self, samples: Collection[PendingSample], *, return_when: str = ALL_COMPLETED) -> None:
        """Wait for these samples, at most as long as they may delay a step.

        Raises SamplingStalled if a thread is still busy with a token that was given up long ago.
        """
        if samples:
            wait([each.future for each in samples], _STEP_WAIT_S, return_when)
        self._running = [each for each in self._running if not each.future.done()]
        if any(each.seconds > _MAX_THREAD_S for each in self._running):
            raise SamplingStalled(f"a token has been sampled for over {_MAX_THREAD_S:g} s")
