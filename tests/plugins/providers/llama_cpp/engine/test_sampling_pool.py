"""A costly grammar is sampled in a worker thread: its own answer waits for that, no other does."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event
from typing import ClassVar

import pytest

from appliance.domain.messages import CompletionRequest, OutputFormat, OutputKind, Sampling
from plugins.providers.llama_cpp.engine import batcher as batcher_module
from plugins.providers.llama_cpp.engine import sampling_pool
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sampling_pool import SamplingStalled
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.protocol.messages import Cancelled, Done, FromEngine, Refused, Text
from plugins.providers.llama_cpp.sampling.sampler import SampledToken, Sampler
from tests.support.llama_model import open_model
from tests.support.tiny_gguf import write_tiny_gguf

CELLS, SEQUENCES, TOKENS = 512, 4, 6
TIMEOUT_S = 30.0
GRAMMAR = "root ::= [a-z]*"


class _HeldSampler(Sampler):
    """The worker thread that samples the first token waits until `release` is set."""

    release: ClassVar[Event]
    entered: ClassVar[Event]
    closed: ClassVar[Event]

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        super().__init__(model, sampling, prompt, grammar)
        self._constrained = bool(grammar)

    def finish_sample(self) -> SampledToken:
        self.entered.set()
        assert self.release.wait(TIMEOUT_S)
        return super().finish_sample()

    def close(self) -> None:
        super().close()
        if self._constrained:
            self.closed.set()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("tiny")
    return open_model(write_tiny_gguf(folder / "tiny.gguf"))


@pytest.fixture
def bench(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator["_Bench"]:
    _HeldSampler.release, _HeldSampler.entered, _HeldSampler.closed = Event(), Event(), Event()
    monkeypatch.setattr(batcher_module, "Sampler", _HeldSampler)
    yield _Bench(model)
    _HeldSampler.release.set()


class _Bench:
    """A batcher that computes one answer with a grammar, number 1, and one without, number 2."""

    def __init__(self, model: Model) -> None:
        self.sent: list[FromEngine] = []
        self._context = Context(
            model, cells=CELLS, slots=SLOTS_PER_SEQUENCE * SEQUENCES, batch_tokens=64, threads=1
        )
        self.kv_cache = KvCache(
            self._context,
            cells=CELLS,
            max_sequences=SEQUENCES,
            slots=self._context.slots,
            context_tokens=CELLS,
            divisible=True,
        )
        self.batcher = Batcher(
            model, self._context, self.kv_cache, chunk=32, stops=(), send=self.sent.append
        )
        self.constrained, self.plain = self._submit(1, GRAMMAR), self._submit(2, "")

    def _submit(self, number: int, grammar: str) -> Job:
        output = OutputFormat(OutputKind.GRAMMAR, grammar=grammar)
        greedy = Sampling(temperature=0)
        job = Job(number, CompletionRequest("tiny", (), greedy, TOKENS, output=output))
        job.tokens = [1, 70, 80, 90 + number]
        self.batcher.queue.append(job)
        return job

    def run_until_ended(self, number: int) -> FromEngine:
        """Compute steps until this answer's last message, which is returned."""
        while not (ends := [each for each in self.ends() if each.id == number]):
            self.batcher.step()
        return ends[0]

    def ends(self) -> list[Done | Cancelled | Refused]:
        return [each for each in self.sent if isinstance(each, Done | Cancelled | Refused)]

    def texts(self, number: int) -> str:
        texts = (each for each in self.sent if isinstance(each, Text) and each.id == number)
        return "".join(text.text for text in texts)


def test_grammar_when_a_token_takes_long_then_others_go_on_and_it_gets_its_tokens(bench: _Bench):
    end = bench.run_until_ended(2)
    assert isinstance(end, Done)
    assert end.usage.completion_tokens == TOKENS
    assert _HeldSampler.entered.wait(TIMEOUT_S)
    assert [each.id for each in bench.ends()] == [2]
    assert not bench.batcher.idle
    _HeldSampler.release.set()
    end = bench.run_until_ended(1)
    assert isinstance(end, Done)
    assert end.usage.completion_tokens == TOKENS
    assert bench.texts(1).isalpha()
    assert _HeldSampler.closed.is_set()
    assert bench.batcher.idle


def test_grammar_when_cancelled_while_sampled_then_closed_behind_the_worker(bench: _Bench):
    bench.run_until_ended(2)
    assert _HeldSampler.entered.wait(TIMEOUT_S)
    bench.constrained.cancelled = True
    end = bench.run_until_ended(1)
    assert isinstance(end, Cancelled)
    assert bench.batcher.idle
    assert not _HeldSampler.closed.is_set()
    _HeldSampler.release.set()
    assert _HeldSampler.closed.wait(TIMEOUT_S)


def test_grammar_when_a_token_takes_too_long_then_its_answer_ends_and_then_the_engine(
    bench: _Bench, monkeypatch: pytest.MonkeyPatch
):
    bench.run_until_ended(2)
    assert _HeldSampler.entered.wait(TIMEOUT_S)
    monkeypatch.setattr(sampling_pool, "_MAX_SAMPLE_S", 0.0)
    end = bench.run_until_ended(1)
    assert isinstance(end, Refused)
    assert "for one token" in end.message
    assert bench.batcher.idle
    monkeypatch.setattr(sampling_pool, "_MAX_THREAD_S", 0.0)
    with pytest.raises(SamplingStalled):
        bench.batcher.step()
