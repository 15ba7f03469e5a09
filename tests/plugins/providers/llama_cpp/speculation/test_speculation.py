"""Speculative decoding generates the same text as plain decoding, in fewer steps if it pays."""

from collections.abc import Sequence

import pytest
from msgspec import structs

from appliance.domain.messages import (
    CompletionRequest,
    FinishReason,
    OutputFormat,
    OutputKind,
    Sampling,
    TokenLikelihood,
)
from plugins.providers.llama_cpp.engine.batcher import Batcher
from plugins.providers.llama_cpp.engine.kv_cache import SLOTS_PER_SEQUENCE, KvCache
from plugins.providers.llama_cpp.engine.sequences import Job
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.protocol.messages import Done, FromEngine, Refused, Text
from plugins.providers.llama_cpp.speculation.acceptance import AcceptanceRates
from plugins.providers.llama_cpp.speculation.drafter import Drafter
from plugins.providers.llama_cpp.speculation.prompt_lookup import PromptLookup
from plugins.providers.llama_cpp.speculation.speculation import MAX_DRAFT_TOKENS, best_draft_length
from plugins.providers.llama_cpp.speculation.step_costs import StepCosts
from tests.support.llama_model import BYTES, open_model
from tests.support.tiny_gguf import write_tiny_gguf

CELLS, SEQUENCES, CHUNK = 512, 4, 32
FREE = StepCosts((1.0, 1.0, 1.0, 1.0))
DEAR = StepCosts((1.0, 2.5, 4.4, 8.2))
NONE = StepCosts()
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("tiny") / "tiny.gguf"
    return open_model(write_tiny_gguf(path, context_tokens=CELLS))


class _Engine:
    """A batcher, the messages that it sent, and its number of steps."""

    def __init__(self, model: Model, costs: StepCosts, *, shiftable: bool = False) -> None:
        slots = SLOTS_PER_SEQUENCE * SEQUENCES
        self.context = Context(
            model, cells=CELLS, slots=slots, batch_tokens=64, threads=1, draft_rows=MAX_DRAFT_TOKENS
        )
        self.kv_cache = KvCache(
            self.context,
            cells=self.context.cells,
            max_sequences=SEQUENCES,
            slots=self.context.slots,
            context_tokens=CELLS,
            divisible=True,
            shiftable=shiftable,
        )
        self.sent: list[FromEngine] = []
        self.steps = 0
        self.batcher = Batcher(
            model,
            self.context,
            self.kv_cache,
            chunk=CHUNK,
            stops=(),
            send=self.sent.append,
            costs=costs,
        )

    def run(self, *jobs: Job) -> "_Engine":
        for job in jobs:
            self.batcher.queue.append(job)
        while not self.batcher.idle:
            self.step()
        return self

    def step(self) -> None:
        self.batcher.step()
        self.steps += 1
        assert self.steps < 3000
        self._check_memory()

    def text(self, number: int) -> str:
        return "".join(each.text for each in self._texts(number))

    def likelihoods(self, number: int) -> list[TokenLikelihood]:
        return [one for each in self._texts(number) for one in each.likelihoods]

    def done(self, number: int) -> Done:
        (last,) = (each for each in self.sent if isinstance(each, Done) and each.id == number)
        return last

    def _texts(self, number: int) -> list[Text]:
        return [each for each in self.sent if isinstance(each, Text) and each.id == number]

    def _check_memory(self) -> None:
        """llama.cpp holds what the KV cache assumes for each answer, without rejected tokens."""
        lib, memory = self.context.lib, self.context.lib.llama_get_memory(self.context.handle)
        for sequence in self.kv_cache.sequences:
            if sequence.decoding:
                assert lib.llama_memory_seq_pos_max(memory, sequence.slot) == sequence.position - 1
                assert sequence.position == len(sequence.tokens) - 1


def _job(
    prompt: Sequence[int],
    sampling: Sampling = GREEDY,
    *,
    number: int = 1,
    most: int | None = 80,
    grammar: str = "",
    owner: str = "",
    shift: bool = False,
) -> Job:
    kind = OutputKind.GRAMMAR if grammar else OutputKind.TEXT
    request = CompletionRequest(
        "tiny",
        (),
        sampling,
        most,
        owner,
        output=OutputFormat(kind, grammar=grammar),
        context_shift=shift,
    )
    job = Job(number, request)
    job.tokens = list(prompt)
    return job


def _spelled(text: str) -> list[int]:
    return [1, *(BYTES + byte for byte in text.encode())]


_REPEATING = _spelled("one two three four. one two three four. one two")


def _both(
    model: Model, prompt: Sequence[int], sampling: Sampling, *, most: int = 80, grammar: str = ""
) -> list[_Engine]:
    """An engine that ran the request without drafts, and one that drafted."""
    job = [_job(prompt, sampling, most=most, grammar=grammar) for _ in range(2)]
    return [_Engine(model, NONE).run(job[0]), _Engine(model, FREE).run(job[1])]


def test_greedy_when_drafted_then_same_text_in_fewer_steps(model: Model):
    plain, drafting = _both(model, _REPEATING, GREEDY)
    assert drafting.text(1) == plain.text(1) != ""
    assert drafting.steps < plain.steps / 2
    usage = drafting.done(1).usage
    assert usage.completion_tokens == plain.done(1).usage.completion_tokens == 80
    assert 0 < usage.accepted_tokens <= usage.drafted_tokens
    assert plain.done(1).usage.drafted_tokens == 0


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=0.4),
        Sampling(temperature=1.2, top_k=0, top_p=1),
        Sampling(temperature=0.7, repeat_penalty=1.3, frequency_penalty=0.5),
        Sampling(temperature=0, presence_penalty=1.5),
    ],
)
def test_sampled_when_drafted_then_same_seed_gives_same_text(
    model: Model, sampling: Sampling, seed: int
):
    plain, drafting = _both(model, _REPEATING, structs.replace(sampling, seed=seed))
    assert drafting.text(1) == plain.text(1)
    assert drafting.done(1).reason is plain.done(1).reason


def test_grammar_when_it_spells_the_prompt_again_then_same_text_and_most_is_drafted(model: Model):
    line = "def walk(folder): return folder"
    prompt = _spelled(f"{line}\n{line}\n")
    # Letters are tokens too: without them the answer has the prompt's own tokens.
    letters = tuple((token, -100.0) for token in range(BYTES + 256, model.vocabulary_size))
    sampling = Sampling(temperature=0, logit_bias=letters)
    plain, drafting = _both(model, prompt, sampling, grammar=f'root ::= "{line}"')
    assert drafting.text(1) == plain.text(1) == line
    assert drafting.done(1).reason is FinishReason.STOP
    assert drafting.steps < plain.steps * 0.8
    assert drafting.done(1).usage.accepted_tokens > len(line) // 3


def test_stop_string_when_inside_a_draft_then_text_ends_there(model: Model):
    text = _Engine(model, NONE).run(_job(_REPEATING)).text(1)
    stop = text[40:44]
    sampling = Sampling(temperature=0, stop=(stop,))
    plain, drafting = _both(model, _REPEATING, sampling)
    assert drafting.text(1) == plain.text(1) == text[: text.index(stop)]
    assert drafting.done(1).stop == stop
    assert drafting.done(1).usage.completion_tokens == plain.done(1).usage.completion_tokens


def test_likelihoods_when_drafted_then_one_for_each_token_as_without(model: Model):
    sampling = Sampling(temperature=0, logprobs=2)
    plain, drafting = _both(model, _REPEATING, sampling)
    pairs = list(zip(plain.likelihoods(1), drafting.likelihoods(1), strict=True))
    assert pairs
    for one, other in pairs:
        assert one.drawn.bytes == other.drawn.bytes
        assert one.drawn.logprob == pytest.approx(other.drawn.logprob, abs=0.01)


@pytest.mark.parametrize("most", [1, 2, 3, 17, 40])
def test_limit_when_drafts_would_pass_it_then_exactly_so_many_tokens(model: Model, most: int):
    plain, drafting = _both(model, _REPEATING, GREEDY, most=most)
    assert drafting.text(1) == plain.text(1)
    assert drafting.done(1).usage.completion_tokens == most
    assert drafting.done(1).reason is FinishReason.LENGTH


def test_shift_when_context_is_full_then_it_goes_on_drafting(model: Model):
    job = _job(_REPEATING, most=700, shift=True)
    engine = _Engine(model, FREE, shiftable=True).run(job)
    usage = engine.done(1).usage
    assert usage.completion_tokens == 700
    assert usage.accepted_tokens > 100
    assert engine.kv_cache.free_cells == engine.context.cells


def test_kept_answer_when_drafted_then_the_next_turn_goes_on_from_it(model: Model):
    engines = [_Engine(model, costs) for costs in (NONE, FREE)]
    for engine in engines:
        engine.run(_job(_REPEATING, owner="a", most=40))
        (node,) = (each for each in engine.kv_cache.prefixes.nodes if len(each.tokens) > 80)
        longer = [*node.tokens, *_spelled(" and then?")[1:]]
        engine.run(_job(longer, number=2, owner="a", most=40))
        assert engine.done(2).usage.cached_tokens == len(node.tokens)
    plain, drafting = engines
    assert drafting.text(2) == plain.text(2)


def test_neighbours_when_rows_are_free_then_all_draft_and_say_the_same(model: Model):
    jobs = [_job(_REPEATING[: 40 - at], number=at, owner=f"{at}", most=50) for at in range(4)]
    alone = {job.number: _Engine(model, NONE).run(_copy(job)) for job in jobs}
    together = _Engine(model, FREE).run(*jobs)
    for job in jobs:
        assert together.text(job.number) == alone[job.number].text(job.number)
        assert together.done(job.number).usage.accepted_tokens > 0


def test_neighbours_when_rows_are_dear_then_nobody_waits_for_anothers_draft(model: Model):
    jobs = [_job(_REPEATING, number=at, owner=f"{at}", most=60) for at in range(3)]
    engine = _Engine(model, DEAR).run(*jobs)
    assert all(engine.done(job.number).usage.drafted_tokens == 0 for job in jobs)
    alone = _Engine(model, DEAR).run(_job(_REPEATING, most=120))
    assert alone.done(1).usage.drafted_tokens > 0


def test_cancel_when_drafting_then_cells_are_free_at_once(model: Model):
    job = _job(_REPEATING, most=400)
    engine = _Engine(model, FREE)
    engine.batcher.queue.append(job)
    for _ in range(12):
        engine.step()
    job.cancelled = True
    engine.step()
    assert engine.batcher.idle
    assert engine.kv_cache.free_cells == engine.context.cells


def test_memory_when_full_during_a_draft_then_others_go_on_exactly(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    expected = _Engine(model, NONE).run(_job(_REPEATING))
    engine = _Engine(model, FREE)
    engine.batcher.queue.append(_job(_REPEATING))
    while not (engine.kv_cache.sequences and engine.kv_cache.sequences[0].accepted_tokens):
        engine.step()
    engine.batcher.queue.append(_job(_REPEATING, number=2, owner="b"))
    decode = engine.context.decode
    monkeypatch.setattr(engine.context, "decode", _full)
    engine.batcher.step()
    monkeypatch.setattr(engine.context, "decode", decode)
    engine.run()
    assert engine.text(1) == expected.text(1)
    (refused,) = (each for each in engine.sent if isinstance(each, Refused))
    assert refused.id == 2


def test_sample_when_it_fails_inside_a_draft_then_only_this_answer_is_refused(
    model: Model, monkeypatch: pytest.MonkeyPatch
):
    engine = _Engine(model, FREE)
    engine.batcher.queue.append(_job(_REPEATING))
    while not (engine.kv_cache.sequences and engine.kv_cache.sequences[0].accepted_tokens):
        engine.step()

    def fail(context: Context, row: int) -> None:
        raise NativeError("no token")

    monkeypatch.setattr(engine.kv_cache.sequences[0].sampler, "sample", fail)
    engine.step()
    assert isinstance(engine.sent[-1], Refused)
    assert engine.batcher.idle
    assert engine.kv_cache.free_cells == engine.context.cells


def test_lookup_when_run_stood_twice_then_the_last_place_and_near_goes_first():
    tokens = [1, 2, 3, 4, 9, 1, 2, 3, 5, 9, 1, 2, 3]
    assert PromptLookup().find(tokens) == 8
    assert PromptLookup().find(tokens, near=1) == 3
    assert PromptLookup().find([1, 2, 3]) is None
    assert PromptLookup().find([1]) is None
    assert PromptLookup().find([7, 7, 7, 7]) == 3


def test_lookup_when_text_is_long_then_learned_piece_by_piece():
    lookup, tokens = PromptLookup(), [*range(10_000), 5, 6, 7]
    positions = [lookup.find(tokens) for _ in range(3)]
    assert positions[-1] == 8
    grown = [*tokens, 8, 9998, 9999, 5]
    assert lookup.find(grown) == 10_001


def test_drafter_when_passage_is_repeated_then_it_predicts_the_rest():
    drafter, tokens = Drafter(), [*range(100, 140)]
    drafter.observe(tokens)
    assert drafter.expect_accepted(4) == []
    for token in range(100, 120):
        tokens.append(token)
        drafter.observe(tokens)
    assert drafter.draft(tokens, 4) == [120, 121, 122, 123]
    assert drafter.expect_accepted(4)[-1] > 3.5
    tokens.append(7)
    drafter.observe(tokens)
    assert drafter.expect_accepted(4) == []
    assert drafter.draft(tokens, 4) == []
    tokens += [122, 123, 124]
    drafter.observe(tokens)
    assert drafter.draft(tokens, 2) == [125, 126]


def test_drafter_when_passage_reaches_the_end_then_it_goes_round():
    drafter, tokens = Drafter(), [1, 2, 3, 1, 2, 3]
    drafter.observe(tokens)
    assert drafter.draft(tokens, 8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_acceptance_rates_when_recorded_then_between_none_and_all_and_growing_with_the_run():
    rates = AcceptanceRates()
    fresh = rates.expect_accepted(0, 3)
    assert fresh == pytest.approx([0.5, 0.75, 0.875])
    for run in range(40):
        rates.record(run, hit=True)
    assert rates.expect_accepted(40, 4)[-1] > 3.8
    for _ in range(30):
        rates.record(0, hit=False)
    assert rates.expect_accepted(0, 1)[0] < 0.1
    assert rates.expect_accepted(40, 1)[0] > 0.9


def test_costs_when_between_or_beyond_what_was_measured_then_on_the_line():
    assert [DEAR.step_time(rows) for rows in (1, 4, 8, 16)] == [1.0, 2.5, 4.4, 8.2]
    assert DEAR.step_time(6) == pytest.approx(3.45)
    assert DEAR.step_time(24) == pytest.approx(12.0)
    assert StepCosts((1.0, 2.5)).step_time(16) == pytest.approx(8.5)
    assert not StepCosts((1.0,)).usable
    assert StepCosts.from_seconds([0.5, 1.0, 0.8, float("inf")]).times == (1.0, 2.0, 2.0)


def test_draft_length_when_rows_cost_more_than_they_gain_then_none():
    sure = [float(count) for count in range(1, 16)]
    assert best_draft_length(DEAR, 1, sure, alone=True) == 15
    assert best_draft_length(DEAR, 1, [0.5, 0.75, 0.9], alone=True) == 0
    assert best_draft_length(DEAR, 3, sure, alone=False) == 0
    assert best_draft_length(FREE, 3, sure, alone=False) == 15
    assert best_draft_length(DEAR, 1, [], alone=True) == 0


def _copy(job: Job) -> Job:
    copied = Job(job.number, job.request)
    copied.tokens = list(job.tokens)
    return copied


def _full(_batch: Batch) -> int:
    return 1
