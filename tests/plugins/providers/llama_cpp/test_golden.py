"""Greedy tokens of our engine compared with those of llama-cpp-python's high-level class.

Alone, without reuse and with the same kind of attention the arithmetic is the same, so the
tokens must be equal. In a full batch it is not, for two reasons in llama.cpp's attention on CPUs.
A step of 64 rows or more uses a kernel that accumulates in 32 bits, a smaller step one that
accumulates in 16; alone these prompts are smaller. And a 16-bit sum depends on the order of the
cells, which differs if answers took them alternately. Either moves the tiny model's logits by
some hundredths. Quantized activations amplify such last bits: the starter model's logits moved by
up to 1.5 in large steps, and not at all in small ones. So a token may differ only where the most
likely one led by less than that, and the texts can be compared only up to there.
"""

import heapq
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from appliance.domain.messages import CompletionRequest, Sampling
from plugins.providers.llama_cpp.engine import batcher as batcher_module
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.sampling.sampler import SampledToken, Sampler
from tests.support.llama_model import open_model
from tests.support.tiny_gguf import write_tiny_gguf

_TOKENS = 16
_CHUNK = 256
# Prefill tokens of a step that stays below 64 rows with the answers of all sequences.
_SMALL_CHUNK = 32
# Leads within which a token may differ, in small steps and in large ones.
_TINY_TIES = (0.05, 0.05)
_STARTER_TIES = (0.05, 1.0)
_SEQUENCES = 8
_TEXTS = (
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "The capital of France is",
    "import os\n\n\ndef walk(folder):\n    for name in os.listdir(folder):\n        path =",
    "1 2 3 4 5 6 7 8 9",
)
_PEER = """
import json, sys
from llama_cpp import Llama
same = {"n_ctx": 2048, "n_batch": 256, "n_threads": 1, "flash_attn": True}
llama = Llama(sys.argv[1], **same, verbose=False)
answers = []
for prompt in json.loads(sys.argv[2]):
    llama.reset()
    answer = []
    for token in llama.generate(prompt, temp=0.0, repeat_penalty=1.0):
        answer.append(token)
        if len(answer) == int(sys.argv[3]) or token == llama.token_eos():
            break
    answers.append(answer)
print(json.dumps(answers))
"""


class _RecordingSampler(Sampler):
    """Records its samples, and by how much the most likely token led, by the job's seed."""

    tokens: ClassVar[dict[int, list[int]]] = {}
    leads: ClassVar[dict[int, list[float]]] = {}

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        super().__init__(model, sampling, prompt, grammar)
        self._size, self._seed = model.vocabulary_size, sampling.seed or 0
        self.tokens[self._seed], self.leads[self._seed] = [], []

    def sample(self, context: Context, row: int) -> SampledToken:
        logits: Any = context.lib.llama_get_logits_ith(context.handle, row)
        first, second = heapq.nlargest(2, logits[: self._size])
        sampled = super().sample(context, row)
        assert sampled is not None
        self.leads[self._seed].append(first - second)
        self.tokens[self._seed].append(sampled.token)
        return sampled


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("golden") / "tiny.gguf"
    return write_tiny_gguf(path, context_tokens=2048)


def test_greedy_when_model_is_tiny_then_tokens_are_those_of_llama_cpp_python(
    tiny_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _compare(tiny_path, monkeypatch, _TINY_TIES)


def test_greedy_when_model_is_the_starter_then_tokens_are_those_of_llama_cpp_python(
    starter_model: Path, monkeypatch: pytest.MonkeyPatch
):
    _compare(starter_model, monkeypatch, _STARTER_TIES)


def _compare(path: Path, monkeypatch: pytest.MonkeyPatch, ties: tuple[float, float]) -> None:
    monkeypatch.setattr(batcher_module, "Sampler", _RecordingSampler)
    model = open_model(path)
    first = [] if model.bos_token is None else [model.bos_token]
    prompts = [[*first, *model.tokenize(text, parse_special=False)] for text in _TEXTS]
    expected_answers = _run_peer(path, prompts)
    for number, prompt in enumerate(prompts):
        _run(model, [_job(number, prompt)])
    leads = dict(_RecordingSampler.leads)
    assert [_RecordingSampler.tokens[number] for number in range(len(prompts))] == expected_answers
    for chunk, tie in zip((_SMALL_CHUNK, _CHUNK), ties, strict=True):
        _run(model, _mixed(prompts), chunk)
        for number, expected in enumerate(expected_answers):
            _same_up_to_a_tie(_RecordingSampler.tokens[number], expected, leads[number], tie)


def _run_peer(path: Path, prompts: list[list[int]]) -> list[list[int]]:
    argv = [sys.executable, "-c", _PEER, str(path), json.dumps(prompts), str(_TOKENS)]
    done = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120)
    answers: list[list[int]] = json.loads(done.stdout)
    return answers


def _mixed(prompts: list[list[int]]) -> list[Job]:
    """The greedy jobs, each followed by one with the same prompt and a higher temperature."""
    jobs: list[Job] = []
    for number, prompt in enumerate(prompts):
        jobs.append(_job(number, prompt, owner="a"))
        jobs.append(_job(100 + number, prompt, owner="a", temperature=0.8))
    return jobs


def _job(number: int, prompt: list[int], *, owner: str = "", temperature: float = 0.0) -> Job:
    sampling = Sampling(temperature=temperature, seed=number)
    request = CompletionRequest("m", (), sampling, max_tokens=_TOKENS, owner=owner)
    job = Job(number, request)
    job.tokens = prompt
    return job


def _run(model: Model, jobs: list[Job], chunk: int = _CHUNK) -> None:
    slots = SLOTS_PER_SEQUENCE * _SEQUENCES
    context = Context(model, cells=2048, slots=slots, batch_tokens=chunk + _SEQUENCES, threads=1)
    kv_cache = KvCache(
        context,
        cells=context.cells,
        max_sequences=_SEQUENCES,
        slots=context.slots,
        context_tokens=context.cells,
        divisible=True,
    )
    batcher = batcher_module.Batcher(
        model, context, kv_cache, chunk=chunk, stops=(), send=lambda message: None
    )
    for job in jobs:
        batcher.queue.append(job)
    while not batcher.idle:
        batcher.step()


def _same_up_to_a_tie(
    sampled: list[int], expected: list[int], leads: list[float], tie: float
) -> None:
    pairs = enumerate(zip(sampled, expected, strict=False))
    different = next((at for at, (one, two) in pairs if one != two), None)
    assert different is None or leads[different] < tie
    assert different is not None or len(sampled) == len(expected)
