"""Continuous batching computes for each sequence what it would compute alone.

The sampler is replaced by one that follows a script and records the logits it saw, so that
numbers are compared with a tolerance, not samples that a last bit can change.
"""

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import pytest

from appliance.domain.messages import CompletionRequest, Sampling
from plugins.providers.llama_cpp.engine import batcher
from plugins.providers.llama_cpp.engine.batcher import Batcher, EngineError
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.messages import Done, FromEngine, Refused, Text
from plugins.providers.llama_cpp.sampling.sampler import SampledToken
from tests.support.tiny_gguf import write_tiny_gguf

CELLS, SEQUENCES, CHUNK = 1024, 4, 32
TOLERANCE = 0.5
_log = ErrorLog()
Logits = dict[int, list[list[float]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    lib = load_library()
    _log.install(lib)
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return Model(lib, str(write_tiny_gguf(path, context_tokens=CELLS)))


class _ScriptedSampler:
    """Samples token (seed + 7 * step), whatever the logits say, and records them."""

    seen: ClassVar[Logits] = {}

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        self._lib, self._size = model.lib, model.vocabulary_size
        self._seed = sampling.seed or 0
        self.seen[self._seed] = []

    def sample(self, context: Context, row: int) -> SampledToken:
        logits: Any = self._lib.llama_get_logits_ith(context.handle, row)
        assert logits
        rows = self.seen[self._seed]
        rows.append(logits[: self._size])
        return SampledToken(20 + (self._seed + 7 * len(rows)) % 200)

    def close(self) -> None:
        """Nothing to free."""


@pytest.fixture
def bench(model: Model, monkeypatch: pytest.MonkeyPatch) -> "_Bench":
    monkeypatch.setattr(batcher, "Sampler", _ScriptedSampler)
    return _Bench(model)


class _Bench:
    """A batcher, and what it sent."""

    def __init__(self, model: Model) -> None:
        self.sent: list[FromEngine] = []
        self._model = model
        self.batcher = self.fresh()

    def fresh(self) -> Batcher:
        self.context = Context(
            self._model,
            cells=CELLS,
            slots=SLOTS_PER_SEQUENCE * SEQUENCES,
            batch_tokens=64,
            threads=1,
        )
        self.kv_cache = KvCache(
            self.context,
            cells=self.context.cells,
            max_sequences=SEQUENCES,
            slots=self.context.slots,
            context_tokens=CELLS,
            divisible=True,
            shiftable=True,
        )
        self.batcher = Batcher(
            self._model,
            self.context,
            self.kv_cache,
            chunk=CHUNK,
            stops=(),
            send=self.sent.append,
        )
        return self.batcher

    def submit(self, job: Job) -> Job:
        self.batcher.queue.append(job)
        return job

    def run(self, jobs: list[Job]) -> Logits:
        _ScriptedSampler.seen = {}
        for job in jobs:
            self.submit(job)
        for _ in self.steps():
            pass
        return _ScriptedSampler.seen

    def steps(self) -> Iterator[None]:
        for _ in range(5000):
            if self.batcher.idle:
                return
            self.batcher.step()
            yield
        raise AssertionError("the batcher never gets idle")

    def ended(self) -> list[FromEngine]:
        return [message for message in self.sent if not isinstance(message, Text)]


def _job(seed: int, prompt: Sequence[int], *, tokens: int = 12, key: str = "") -> Job:
    request = CompletionRequest("tiny", (), Sampling(seed=seed), max_tokens=tokens, owner=key)
    job = Job(seed, request)
    job.tokens = list(prompt)
    return job


def _prompt(count: int, start: int = 0) -> list[int]:
    return [1, *(20 + (start + 3 * at) % 300 for at in range(count - 1))]


def _same(left: Logits, right: Logits) -> None:
    assert left.keys() == right.keys()
    for seed, rows in left.items():
        assert len(rows) == len(right[seed])
        for row, other in zip(rows, right[seed], strict=True):
            assert max(abs(a - b) for a, b in zip(row, other, strict=True)) < TOLERANCE


def _alone(bench: _Bench, jobs: list[Job]) -> Logits:
    logits: Logits = {}
    for job in jobs:
        bench.fresh()
        logits |= bench.run([_job(job.number, job.tokens, tokens=job.max_tokens or 1)])
    return logits


@pytest.mark.parametrize("count", [1, 4, 11])
def test_batch_when_prompts_differ_then_each_computes_as_alone(bench: _Bench, count: int):
    jobs = [_job(at, _prompt(5 + 17 * at, start=at), tokens=6 + at) for at in range(count)]
    _same(bench.run(jobs), _alone(bench, jobs))


@pytest.mark.parametrize("length", [2, 16, 17, 33, 100])
def test_batch_when_prompt_is_shared_then_each_computes_as_alone(bench: _Bench, length: int):
    jobs = [_job(at, _prompt(length), key="k") for at in range(6)]
    _same(bench.run(jobs), _alone(bench, jobs))


def test_batch_when_beginnings_are_shared_then_each_computes_as_alone(bench: _Bench):
    common = _prompt(70)
    jobs = [
        _job(at, [*common[: 70 - 9 * at], *_prompt(20, start=50 * at)[1:]], key="k")
        for at in range(5)
    ]
    _same(bench.run(jobs), _alone(bench, jobs))


def test_batch_when_sharer_comes_late_then_it_computes_as_alone(bench: _Bench):
    first, late = _job(1, _prompt(90), tokens=40, key="k"), _job(2, _prompt(90), key="k")
    _ScriptedSampler.seen = {}
    bench.submit(first)
    for step, _ in enumerate(bench.steps()):
        if step == 20:
            bench.submit(late)
    _same(_ScriptedSampler.seen, _alone(bench, [first, late]))


def test_batch_when_longer_prompt_follows_then_kept_prefix_is_right(bench: _Bench):
    short, long = _job(1, _prompt(60), key="k"), _job(2, _prompt(120), key="k")
    together = bench.run([short]) | bench.run([long])
    _same(together, _alone(bench, [short, long]))


def test_batch_when_neighbour_is_cancelled_then_others_compute_as_alone(bench: _Bench):
    jobs = [_job(at, _prompt(80), tokens=30, key="k") for at in range(3)]
    _ScriptedSampler.seen = {}
    for job in jobs:
        bench.submit(job)
    for step, _ in enumerate(bench.steps()):
        if step == 10:
            jobs[1].cancelled = True
            bench.batcher.step()
            assert bench.batcher.running == 2
    seen = {seed: rows for seed, rows in _ScriptedSampler.seen.items() if seed != 1}
    _same(seen, _alone(bench, [jobs[0], jobs[2]]))


def test_cancel_when_prefix_is_half_computed_then_all_cells_are_free(bench: _Bench):
    job = bench.submit(_job(1, _prompt(500), key="k"))
    bench.batcher.step()
    job.cancelled = True
    bench.batcher.step()
    assert bench.batcher.idle
    assert bench.batcher.free_cells == bench.context.cells


def test_batch_when_slots_are_fewer_than_jobs_then_all_end_in_order(bench: _Bench):
    bench.run([_job(at, _prompt(200, start=at), tokens=50) for at in range(9)])
    done = bench.ended()
    assert all(isinstance(message, Done) for message in done)
    assert [message.id for message in done if isinstance(message, Done)] == list(range(9))


def test_batch_when_prompts_compete_for_cells_then_none_fails(bench: _Bench):
    jobs = [_job(at, _prompt(300, start=at), tokens=100, key=f"k{at}") for at in range(7)]
    _same(bench.run(jobs), _alone(bench, jobs))


def test_decode_when_memory_is_full_then_newest_fails_and_others_go_on(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
):
    jobs = [_job(at, _prompt(40, start=at), tokens=20) for at in range(3)]
    alone = _alone(bench, jobs[:2])
    bench.fresh()
    bench.sent.clear()
    _refuse(monkeypatch, bench.context, code=1, at_call=6)
    seen = bench.run(jobs)
    refused = [message for message in bench.ended() if isinstance(message, Refused)]
    assert [message.id for message in refused] == [2]
    del seen[2]
    _same(seen, alone)


def test_decode_when_it_fails_then_running_fail_and_later_jobs_work(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
):
    jobs = [_job(at, _prompt(40), tokens=20, key="k") for at in range(3)]
    _refuse(monkeypatch, bench.context, code=-3, at_call=6)
    bench.run(jobs)
    assert all(isinstance(message, Refused) for message in bench.ended())
    assert bench.batcher.free_cells == bench.context.cells
    later = _job(9, _prompt(40), key="k")
    _same(bench.run([later]), _alone(bench, [later]))


def test_decode_when_it_keeps_failing_then_engine_gives_up(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
):
    _refuse(monkeypatch, bench.context, code=-3, at_call=None)
    with pytest.raises(EngineError, match="in a row"):
        _run_one_by_one(bench, 3)


def test_logits_when_prompt_is_another_then_differ_by_more_than_the_tolerance(bench: _Bench):
    one, other = (bench.run([_job(1, _prompt(40, start=at))])[1][0] for at in (0, 1))
    assert max(abs(a - b) for a, b in zip(one, other, strict=True)) > 2 * TOLERANCE


def test_context_when_memory_is_not_there_then_says_what_to_lower(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model.lib, "llama_init_from_model", _nothing)
    with pytest.raises(NativeError, match=r"models\.context_tokens"):
        Context(model, cells=256, slots=6, batch_tokens=64, threads=1)


def test_sampler_when_llama_creates_none_then_job_is_refused_and_its_slot_free(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(model.lib, "llama_sampler_init_greedy", _nothing)
    bench = _Bench(model)
    greedy = CompletionRequest("tiny", (), Sampling(temperature=0), max_tokens=4)
    job = Job(1, greedy)
    job.tokens = _prompt(4)
    bench.run([job])
    assert [type(message) for message in bench.sent] == [Refused]
    assert bench.batcher.idle


def test_sampler_when_made_then_freed_twice_without_harm(model: Model):
    sampler = batcher.Sampler(model, Sampling(seed=1), [1, 2])
    sampler.close()
    sampler.close()


def test_tokenize_when_text_has_no_token_then_empty(model: Model):
    assert model.tokenize("", parse_special=True) == []
    assert isinstance(model.piece(300), bytes)
    assert ctypes.sizeof(ctypes.c_int32) == 4


def _run_one_by_one(bench: _Bench, count: int) -> None:
    for at in range(count):
        bench.run([_job(at, _prompt(10))])


def _nothing(*_: Any) -> None:
    """What llama.cpp returns when it can't."""


def _refuse(
    monkeypatch: pytest.MonkeyPatch, context: Context, *, code: int, at_call: int | None
) -> None:
    """Let one decode, or each, fail without being run."""
    calls, real = iter(range(1, 1_000_000)), context.decode

    def decode(batch: Batch) -> int:
        return code if at_call in {None, next(calls)} else real(batch)

    monkeypatch.setattr(context, "decode", decode)
