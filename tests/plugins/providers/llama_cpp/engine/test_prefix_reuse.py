"""Prefix reuse, context shift and fairness with a real model's arithmetic.

The tiny model's greedy text must not depend on what was computed before. Reuse changes the
pieces in which a prompt is computed, and so the last bits of some sums; this model's most likely
token leads by enough that no sample changes.
"""

from pathlib import Path

import pytest

from appliance.domain.messages import CompletionRequest, FinishReason, Sampling
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.messages import Done, FromEngine, Text
from tests.support.tiny_gguf import write_tiny_gguf

CELLS, SEQUENCES, CHUNK = 512, 4, 32
_log = ErrorLog()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    lib = load_library()
    _log.install(lib)
    path: Path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return Model(lib, str(write_tiny_gguf(path, context_tokens=CELLS)))


class _Engine:
    """A batcher, and the messages that it sent."""

    def __init__(self, model: Model) -> None:
        self._model = model
        batch = CHUNK + SEQUENCES
        slots = SLOTS_PER_SEQUENCE * SEQUENCES
        context = self.context = Context(
            model, cells=CELLS, slots=slots, batch_tokens=batch, threads=1
        )
        kv_cache = self.kv_cache = KvCache(
            context,
            cells=context.cells,
            max_sequences=SEQUENCES,
            slots=context.slots,
            context_tokens=CELLS,
            divisible=True,
            shiftable=context.can_shift,
        )
        self.sent: list[FromEngine] = []
        self.batcher = Batcher(
            model, context, kv_cache, chunk=CHUNK, stops=(), send=self.sent.append
        )

    def run(self, *jobs: Job) -> None:
        for job in jobs:
            self.batcher.queue.append(job)
        for _ in range(5000):
            if self.batcher.idle:
                return
            self.batcher.step()
        raise AssertionError("the batcher never gets idle")

    def text(self, job: Job) -> str:
        texts = [each for each in self.sent if isinstance(each, Text) and each.id == job.number]
        return "".join(each.text for each in texts)

    def done(self, job: Job) -> Done:
        [message] = [each for each in self.sent if isinstance(each, Done) and each.id == job.number]
        return message

    def order(self) -> list[int]:
        """The jobs in the order in which their first text came."""
        return list(dict.fromkeys(each.id for each in self.sent if isinstance(each, Text)))


def _job(
    number: int,
    tokens: list[int],
    *,
    owner: str = "a",
    most: int | None = 24,
    shared: int = 0,
    shift: bool = False,
) -> Job:
    sampling = Sampling(temperature=0)
    request = CompletionRequest(
        "tiny", (), sampling, max_tokens=most, owner=owner, context_shift=shift
    )
    job = Job(number, request)
    job.tokens, job.shared_tokens = tokens, shared
    return job


def _prompt(count: int, start: int = 0) -> list[int]:
    return [1, *(20 + (start + 7 * at) % 300 for at in range(count - 1))]


@pytest.mark.parametrize("length", [17, 40, 150])
def test_reuse_when_prompt_was_computed_before_then_greedy_text_is_the_same(
    model: Model, length: int
):
    engine, fresh = _Engine(model), _Engine(model)
    prompt = _prompt(length)
    engine.run(_job(1, prompt))
    again = _job(2, prompt)
    longer = _job(3, [*prompt, *_prompt(30, start=5)[1:]])
    engine.run(again)
    engine.run(longer)
    fresh.run(_job(2, prompt, owner=""))
    fresh.run(_job(3, longer.tokens, owner=""))
    assert engine.text(again) == fresh.text(again)
    assert engine.text(longer) == fresh.text(longer)
    assert engine.done(again).usage.cached_tokens == length - 1
    assert engine.done(longer).usage.cached_tokens == length
    assert fresh.done(longer).usage.cached_tokens == 0


def test_reuse_when_chat_goes_on_then_only_what_is_new_is_computed(model: Model):
    engine, fresh = _Engine(model), _Engine(model)
    first = _job(1, _prompt(60))
    engine.run(first)
    [cached] = [node.tokens for node in engine.kv_cache.prefixes.nodes]
    second = _job(2, [*cached, *_prompt(20, start=9)[1:]])
    engine.run(second)
    fresh.run(_job(2, second.tokens, owner=""))
    assert engine.text(second) == fresh.text(second)
    assert engine.done(second).usage.cached_tokens == len(cached) == 60 + 23


def test_reuse_when_owner_is_another_then_nothing_is_cached(model: Model):
    engine = _Engine(model)
    engine.run(_job(1, _prompt(60), owner="a"))
    other = _job(2, _prompt(60), owner="b")
    engine.run(other)
    assert engine.done(other).usage.cached_tokens == 0


def test_reuse_when_system_message_is_shared_then_other_owner_gets_that_much(model: Model):
    engine, fresh = _Engine(model), _Engine(model)
    engine.run(_job(1, _prompt(60), owner="a", shared=40))
    other = _job(2, _prompt(60), owner="b", shared=40)
    engine.run(other)
    fresh.run(_job(2, _prompt(60), owner=""))
    assert engine.done(other).usage.cached_tokens == 40
    assert engine.text(other) == fresh.text(other)


def test_candidates_when_they_come_together_then_prompt_is_paid_once(model: Model):
    engine = _Engine(model)
    jobs = [_job(at, _prompt(100)) for at in range(SEQUENCES)]
    engine.run(*jobs)
    cached = sorted(engine.done(job).usage.cached_tokens for job in jobs)
    assert cached == [0, *[99] * (SEQUENCES - 1)]
    assert len({engine.text(job) for job in jobs}) == 1


def test_fairness_when_one_owner_has_many_jobs_then_anothers_first_starts_beside_them(model: Model):
    engine = _Engine(model)
    crowd = [_job(at, _prompt(30, start=at), owner="a", most=6) for at in range(20)]
    single = _job(99, _prompt(30, start=77), owner="b", most=6)
    engine.run(*crowd, single)
    assert engine.order().index(99) < SEQUENCES


def test_fairness_when_a_long_prompt_is_read_then_short_prompt_of_another_is_answered_first(
    model: Model,
):
    engine = _Engine(model)
    engine.run(_job(1, _prompt(400), owner="a", most=4), _job(2, _prompt(20), owner="b", most=4))
    assert engine.order() == [2, 1]


def test_fairness_when_a_long_prompt_is_read_then_running_answer_gets_a_token_each_step(
    model: Model,
):
    engine = _Engine(model)
    engine.batcher.queue.append(_job(1, _prompt(10), owner="a", most=60))
    engine.batcher.step()
    engine.batcher.step()
    engine.batcher.queue.append(_job(2, _prompt(300), owner="b", most=2))
    running = engine.kv_cache.sequences[0]
    for _ in range(300 // CHUNK):
        before = running.generated_tokens
        engine.batcher.step()
        assert running.generated_tokens == before + 1


def test_shift_when_asked_for_then_answer_is_longer_than_the_context(model: Model):
    engine = _Engine(model)
    job = _job(1, _prompt(100), most=900, shift=True)
    job.kept_tokens = 30
    engine.run(job)
    assert engine.done(job).reason is FinishReason.LENGTH
    assert engine.done(job).usage.completion_tokens == 900
    assert engine.batcher.free_cells == CELLS


def test_shift_when_not_asked_for_then_answer_ends_with_the_context(model: Model):
    engine = _Engine(model)
    job = _job(1, _prompt(100), most=None)
    engine.run(job)
    assert engine.done(job).reason is FinishReason.LENGTH
    assert engine.done(job).usage.completion_tokens == CELLS - 100


def test_shift_when_memory_cannot_then_answer_ends_with_the_context(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Context, "can_shift", False)
    engine = _Engine(model)
    job = _job(1, _prompt(100), most=900, shift=True)
    engine.run(job)
    assert engine.done(job).usage.completion_tokens == CELLS - 100


def test_shift_when_another_runs_beside_it_then_that_one_is_not_touched(model: Model):
    engine, fresh = _Engine(model), _Engine(model)
    shifting = _job(1, _prompt(100), most=500, shift=True)
    beside = _job(2, _prompt(40, start=3), most=100)
    engine.run(shifting, beside)
    fresh.run(_job(2, beside.tokens, most=100))
    assert engine.text(beside) == fresh.text(beside)


def test_prompt_when_its_beginning_is_kept_then_one_step_gives_the_first_token(model: Model):
    engine = _Engine(model)
    engine.run(_job(1, _prompt(100), owner="a", most=4))
    again = _job(2, [*_prompt(100), 50, 60, 70], owner="a", most=4)
    engine.batcher.queue.append(again)
    engine.batcher.step()
    assert engine.text(again)
    engine.run()
    assert engine.done(again).usage.cached_tokens == 99
    alone = _Engine(model)
    alone.run(_job(2, again.tokens, most=4))
    assert engine.text(again) == alone.text(again)


def test_candidates_when_the_last_piece_is_read_then_all_draw_in_the_same_step(model: Model):
    engine, jobs = _Engine(model), [_job(at, _prompt(40), owner="a", most=6) for at in range(3)]
    for job in jobs:
        engine.batcher.queue.append(job)
    engine.batcher.step()
    assert not any(engine.text(job) for job in jobs)
    engine.batcher.step()
    assert all(engine.text(job) for job in jobs)
    engine.run()
    alone = _Engine(model)
    alone.run(_job(1, _prompt(40), most=6))
    assert {engine.text(job) for job in jobs} == {alone.text(_job(1, []))}
    assert sorted(engine.done(job).usage.cached_tokens for job in jobs) == [0, 39, 39]


def test_candidates_when_their_common_step_fails_then_the_others_are_as_alone(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    engine, jobs = _Engine(model), [_job(at, _prompt(40), owner="a", most=6) for at in range(3)]
    for job in jobs:
        engine.batcher.queue.append(job)
    engine.batcher.step()
    context = engine.context
    decode = context.decode
    monkeypatch.setattr(context, "decode", _full)
    engine.batcher.step()
    monkeypatch.setattr(context, "decode", decode)
    engine.run()
    alone = _Engine(model)
    alone.run(_job(1, _prompt(40), most=6))
    assert [engine.text(job) for job in jobs] == [alone.text(_job(1, []))] * 2 + [""]
    assert sorted(engine.done(job).usage.cached_tokens for job in jobs[:2]) == [0, 39]


def _full(_batch: Batch) -> int:
    return 1
