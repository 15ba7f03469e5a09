"""Allocation of cells and slots: admission, sharing, eviction."""

import random

import pytest

from plugins.providers.llama_cpp.engine.kv_cache import ALLOWANCE_STEP
from plugins.providers.llama_cpp.engine.sequences import Sequence
from tests.support.kv_cache_harness import KvCacheHarness


def _tokens(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


def _started(sequence: Sequence | None) -> Sequence:
    assert sequence is not None
    return sequence


def test_kv_cache_when_job_fits_then_prompt_and_answer_are_reserved():
    harness = KvCacheHarness()
    _started(harness.start(_tokens(100), max_tokens=50))
    assert harness.kv_cache.free_cells == 1000 - 150


def test_kv_cache_when_cells_are_taken_then_job_waits_until_one_leaves():
    harness = KvCacheHarness()
    first = _started(harness.start(_tokens(600), max_tokens=100))
    assert harness.start(_tokens(400)) is None
    harness.kv_cache.remove_sequence(first)
    assert harness.start(_tokens(400)) is not None


def test_kv_cache_when_all_slots_are_taken_then_job_waits():
    harness = KvCacheHarness(sequences=1)
    _started(harness.start(_tokens(10)))
    assert harness.start(_tokens(10)) is None


def test_kv_cache_when_key_and_prompt_are_same_then_prompt_is_reserved_once():
    harness = KvCacheHarness()
    first, second = (_started(harness.start(_tokens(100), key="k")) for _ in range(2))
    assert harness.kv_cache.free_cells == 1000 - 99 - 2 * (1 + 10)
    assert first.base is second.base is harness.kv_cache.prefixes.nodes[0]


def test_kv_cache_when_keys_differ_then_nothing_is_shared():
    harness = KvCacheHarness()
    first, second = (_started(harness.start(_tokens(100), key=key)) for key in "ab")
    assert first.base is not second.base


def test_kv_cache_when_key_is_empty_then_nothing_is_shared():
    harness = KvCacheHarness()
    assert _started(harness.start(_tokens(100))).base is None
    assert not harness.kv_cache.prefixes.nodes


def test_kv_cache_when_prompts_only_begin_alike_then_beginning_is_shared():
    harness = KvCacheHarness()
    _started(harness.start(_tokens(100), key="k"))
    other = _started(harness.start([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is harness.kv_cache.prefixes.nodes[0]
    assert other.base.base_length == 60
    assert harness.kv_cache.free_cells == 1000 - 99 - 39 - 2 * 11


def test_kv_cache_when_memory_is_indivisible_then_only_whole_prefixes_are_shared():
    harness = KvCacheHarness(divisible=False)
    _started(harness.start(_tokens(100), key="k"))
    other = _started(harness.start([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is None
    same = _started(KvCacheHarness(divisible=False).start(_tokens(100), key="k"))
    assert same.base_length == 99


def test_kv_cache_when_last_user_leaves_then_computed_prefix_stays_for_the_next():
    harness = KvCacheHarness()
    first = _started(harness.start(_tokens(100), key="k"))
    harness.compute()
    prefix = harness.kv_cache.prefixes.nodes[0]
    harness.kv_cache.remove_sequence(first)
    assert harness.kv_cache.prefixes.nodes == [prefix]
    assert _started(harness.start(_tokens(100), key="k")).base is prefix


def test_kv_cache_when_last_user_leaves_early_then_unfinished_prefix_goes():
    harness = KvCacheHarness()
    harness.kv_cache.remove_sequence(_started(harness.start(_tokens(100), key="k")))
    assert not harness.kv_cache.prefixes.nodes
    assert harness.kv_cache.free_cells == 1000


def test_kv_cache_when_cells_are_needed_then_idle_prefix_makes_way():
    harness = KvCacheHarness()
    first = _started(harness.start(_tokens(500), key="k"))
    harness.compute()
    holder = harness.kv_cache.prefixes.nodes[0].slot
    harness.kv_cache.remove_sequence(first)
    assert harness.start(_tokens(900)) is not None
    assert holder in harness.context.removed


def test_kv_cache_when_prefix_is_in_use_then_it_is_never_evicted():
    harness = KvCacheHarness()
    _started(harness.start(_tokens(500), key="k"))
    harness.compute()
    assert harness.start(_tokens(900)) is None
    assert harness.kv_cache.prefixes.nodes


def test_kv_cache_when_own_prefix_leaves_too_little_then_it_is_given_up():
    harness = KvCacheHarness()
    first = _started(harness.start(_tokens(800), key="k"))
    harness.compute()
    harness.kv_cache.remove_sequence(first)
    assert harness.start([*_tokens(20), *_tokens(880, start=2000)], key="k") is not None


def test_kv_cache_when_no_id_for_a_prefix_is_left_then_job_runs_alone():
    harness = KvCacheHarness(sequences=2, slots=3)
    _started(harness.start(_tokens(50), key="a"))
    second = _started(harness.start(_tokens(50, start=900), key="b"))
    assert second.base is None
    assert harness.start(_tokens(10)) is None


def test_kv_cache_when_first_user_pays_then_others_are_cached():
    harness = KvCacheHarness()
    _started(harness.start(_tokens(100), key="k"))
    prefix = harness.kv_cache.prefixes.nodes[0]
    assert [prefix.charge(), prefix.charge(), prefix.charge()] == [0, 99, 99]


def test_kv_cache_when_answer_has_no_limit_then_it_grows_until_the_context_ends():
    harness = KvCacheHarness(cells=1200)
    sequence = _started(harness.start(_tokens(100), max_tokens=None))
    assert sequence.allowance == ALLOWANCE_STEP
    assert harness.kv_cache.extend_allowance(sequence)
    assert harness.kv_cache.extend_allowance(sequence)
    assert sequence.allowance == 1100
    assert not harness.kv_cache.extend_allowance(sequence)


@pytest.mark.parametrize("key", ["", "k"])
def test_kv_cache_when_everything_left_then_everything_is_free(key: str):
    harness = KvCacheHarness()
    for sequence in [_started(harness.start(_tokens(100), key=key)) for _ in range(2)]:
        harness.kv_cache.remove_sequence(sequence)
    harness.kv_cache.evict_idle_prefixes()
    assert harness.kv_cache.free_cells == 1000


def test_kv_cache_when_answer_is_finished_then_a_longer_chat_goes_on_from_it():
    harness = KvCacheHarness()
    first = _started(harness.start(_tokens(100), max_tokens=50, key="k"))
    harness.answer(first, _tokens(40, start=500))
    harness.kv_cache.finish_sequence(first)
    chat = [*_tokens(100), *_tokens(40, start=500), *_tokens(20, start=700)]
    second = _started(harness.start(chat, key="k"))
    assert second.base is not None
    assert second.base.base_length == 100 + 39
    harness.check()


def test_kv_cache_when_a_chat_goes_on_then_it_stays_one_prefix():
    harness = KvCacheHarness()
    chat = _tokens(50)
    for turn in range(1, 5):
        sequence = _started(harness.start(chat, max_tokens=40, key="k"))
        harness.answer(sequence, _tokens(30, start=1000 * turn))
        harness.kv_cache.finish_sequence(sequence)
        chat = [*sequence.tokens, *_tokens(20, start=1000 * turn + 500)]
        harness.check()
        assert len(harness.kv_cache.prefixes.nodes) == 1
        assert harness.kv_cache.free_cells == 1000 - (len(sequence.tokens) - 1)


def test_kv_cache_when_same_answer_comes_again_then_it_is_kept_once():
    harness = KvCacheHarness()
    for _ in range(3):
        sequence = _started(harness.start(_tokens(50), max_tokens=40, key="k"))
        harness.answer(sequence, _tokens(30, start=1000))
        harness.kv_cache.finish_sequence(sequence)
        harness.check()
    assert harness.kv_cache.free_cells == 1000 - 79


def test_kv_cache_when_a_part_is_shared_then_the_rest_can_be_evicted():
    harness = KvCacheHarness()
    long = _started(harness.start(_tokens(600), key="k"))
    harness.compute()
    harness.kv_cache.remove_sequence(long)
    _started(harness.start([*_tokens(100), 9999], key="k"))
    assert harness.start(_tokens(700, start=5000)) is not None
    harness.compute()
    harness.check()


def test_kv_cache_when_candidates_come_together_then_their_prompt_is_computed_once():
    harness = KvCacheHarness(sequences=8)
    candidates = [_started(harness.start(_tokens(100), key="k")) for _ in range(8)]
    harness.compute()
    assert harness.context.used == 99 + 8
    assert len({id(each.base) for each in candidates}) == 1
    harness.check()


def test_kv_cache_when_system_message_is_the_appliances_own_then_other_owners_start_from_it():
    harness = KvCacheHarness(sequences=3)
    system = _tokens(200)
    first = _started(harness.start([*system, *_tokens(50, start=1000)], key="a", shared=200))
    harness.compute()
    second = _started(harness.start([*system, *_tokens(50, start=1000)], key="b", shared=200))
    third = _started(harness.start([*system, 7], shared=200))
    harness.compute()
    assert harness.context.used == 200 + 50 + 50 + 1
    assert second.base is not first.base
    assert third.base is not None
    assert third.base.shared
    harness.check()


def test_kv_cache_when_other_owner_guesses_the_text_then_only_the_system_message_is_shared():
    harness = KvCacheHarness()
    secret = [*_tokens(200), *_tokens(50, start=1000)]
    first = _started(harness.start(secret, key="a", shared=200))
    harness.answer(first, _tokens(20, start=3000))
    harness.kv_cache.finish_sequence(first)
    spy = _started(harness.start(secret, key="b", shared=200))
    assert spy.base is not None
    assert spy.base.base_length == 200
    greedy = _started(harness.start(secret, key="c"))
    assert greedy.base is not None
    assert greedy.base.base is None


def test_kv_cache_when_system_message_is_new_then_its_first_user_pays_for_all():
    harness = KvCacheHarness()
    sequence = _started(harness.start(_tokens(100), key="a", shared=60))
    assert sequence.base is not None
    assert sequence.base.charge() == 0
    other = _started(harness.start([*_tokens(60), *_tokens(40, start=900)], key="b", shared=60))
    assert other.base is not None
    assert other.base.charge() == 60


def test_kv_cache_when_answer_may_be_shifted_then_it_shares_nothing():
    harness = KvCacheHarness(shiftable=True)
    _started(harness.start(_tokens(100), key="k"))
    harness.compute()
    assert _started(harness.start(_tokens(100), key="k", shift=True)).base is None


def test_kv_cache_when_memory_cannot_shift_then_a_shiftable_answer_shares_too():
    harness = KvCacheHarness(shiftable=False)
    _started(harness.start(_tokens(100), key="k"))
    assert _started(harness.start(_tokens(100), key="k", shift=True)).base is not None


@pytest.mark.parametrize("divisible", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_kv_cache_when_jobs_come_and_go_at_random_then_context_and_cache_agree(
    seed: int, divisible: bool
):
    rng = random.Random(seed)
    harness = KvCacheHarness(cells=600, sequences=4, divisible=divisible)
    texts = [[rng.randrange(3) for _ in range(200)] for _ in range(3)]
    for _ in range(300):
        action = rng.random()
        running = harness.kv_cache.sequences
        if action < 0.4:
            text = rng.choice(texts)[: rng.randrange(1, 200)]
            tail = [rng.randrange(3) for _ in range(rng.randrange(1, 40))]
            limit = rng.choice([None, 20])
            harness.start([*text, *tail], max_tokens=limit, key=rng.choice("ab"), shared=100)
        elif action < 0.6:
            _advance_one(harness, rng)
        elif running and action < 0.9:
            chosen = rng.choice(running)
            harness.answer(chosen, [rng.randrange(3) for _ in range(rng.randrange(1, 20))])
            harness.kv_cache.finish_sequence(chosen)
        elif running:
            harness.kv_cache.remove_sequence(rng.choice(running))
        harness.check()
    for sequence in list(harness.kv_cache.sequences):
        harness.kv_cache.remove_sequence(sequence)
    harness.kv_cache.evict_idle_prefixes()
    assert harness.kv_cache.free_cells == 600
    assert harness.context.used == 0


def _advance_one(harness: KvCacheHarness, rng: random.Random) -> None:
    entries = [entry for entry in harness.entries() if entry.pending and entry.base_ready]
    if entries:
        entry = rng.choice(entries)
        harness.advance(entry, rng.randrange(1, entry.pending + 1))
