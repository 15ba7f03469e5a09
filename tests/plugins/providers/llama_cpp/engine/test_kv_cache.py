"""Who gets cells and sequence ids: admission, sharing, eviction."""

import random

import pytest

from plugins.providers.llama_cpp.engine.kv_cache import OPEN_BLOCK
from plugins.providers.llama_cpp.engine.prefix_cache import can_start
from plugins.providers.llama_cpp.engine.sequences import Sequence
from tests.support.llama_floor import Floor


def _tokens(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


def _entered(sequence: Sequence | None) -> Sequence:
    assert sequence is not None
    return sequence


def test_room_when_job_fits_then_prompt_and_answer_are_reserved():
    floor = Floor()
    _entered(floor.enter(_tokens(100), max_tokens=50))
    assert floor.room.free_cells == 1000 - 150


def test_room_when_cells_are_taken_then_job_waits_until_one_leaves():
    floor = Floor()
    first = _entered(floor.enter(_tokens(600), max_tokens=100))
    assert floor.enter(_tokens(400)) is None
    floor.room.leave(first)
    assert floor.enter(_tokens(400)) is not None


def test_room_when_all_slots_are_taken_then_job_waits():
    floor = Floor(sequences=1)
    _entered(floor.enter(_tokens(10)))
    assert floor.enter(_tokens(10)) is None


def test_room_when_key_and_prompt_are_same_then_prompt_is_reserved_once():
    floor = Floor()
    first, second = (_entered(floor.enter(_tokens(100), key="k")) for _ in range(2))
    assert floor.room.free_cells == 1000 - 99 - 2 * (1 + 10)
    assert first.base is second.base is floor.room.prefixes.nodes[0]


def test_room_when_keys_differ_then_nothing_is_shared():
    floor = Floor()
    first, second = (_entered(floor.enter(_tokens(100), key=key)) for key in "ab")
    assert first.base is not second.base


def test_room_when_key_is_empty_then_nothing_is_shared():
    floor = Floor()
    assert _entered(floor.enter(_tokens(100))).base is None
    assert not floor.room.prefixes.nodes


def test_room_when_prompts_only_begin_alike_then_beginning_is_shared():
    floor = Floor()
    _entered(floor.enter(_tokens(100), key="k"))
    other = _entered(floor.enter([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is floor.room.prefixes.nodes[0]
    assert other.base.base_length == 60
    assert floor.room.free_cells == 1000 - 99 - 39 - 2 * 11


def test_room_when_memory_is_indivisible_then_only_whole_prefixes_are_shared():
    floor = Floor(divisible=False)
    _entered(floor.enter(_tokens(100), key="k"))
    other = _entered(floor.enter([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is None
    same = _entered(Floor(divisible=False).enter(_tokens(100), key="k"))
    assert same.base_length == 99


def test_room_when_last_user_leaves_then_computed_prefix_stays_for_the_next():
    floor = Floor()
    first = _entered(floor.enter(_tokens(100), key="k"))
    floor.compute()
    prefix = floor.room.prefixes.nodes[0]
    floor.room.leave(first)
    assert floor.room.prefixes.nodes == [prefix]
    assert _entered(floor.enter(_tokens(100), key="k")).base is prefix


def test_room_when_last_user_leaves_early_then_unfinished_prefix_goes():
    floor = Floor()
    floor.room.leave(_entered(floor.enter(_tokens(100), key="k")))
    assert not floor.room.prefixes.nodes
    assert floor.room.free_cells == 1000


def test_room_when_cells_are_needed_then_idle_prefix_makes_way():
    floor = Floor()
    first = _entered(floor.enter(_tokens(500), key="k"))
    floor.compute()
    holder = floor.room.prefixes.nodes[0].slot
    floor.room.leave(first)
    assert floor.enter(_tokens(900)) is not None
    assert holder in floor.memory.removed


def test_room_when_prefix_is_in_use_then_it_is_never_evicted():
    floor = Floor()
    _entered(floor.enter(_tokens(500), key="k"))
    floor.compute()
    assert floor.enter(_tokens(900)) is None
    assert floor.room.prefixes.nodes


def test_room_when_own_prefix_leaves_too_little_then_it_is_given_up():
    floor = Floor()
    first = _entered(floor.enter(_tokens(800), key="k"))
    floor.compute()
    floor.room.leave(first)
    assert floor.enter([*_tokens(20), *_tokens(880, start=2000)], key="k") is not None


def test_room_when_no_id_for_a_prefix_is_left_then_job_runs_alone():
    floor = Floor(sequences=2, slots=3)
    _entered(floor.enter(_tokens(50), key="a"))
    second = _entered(floor.enter(_tokens(50, start=900), key="b"))
    assert second.base is None
    assert floor.enter(_tokens(10)) is None


def test_room_when_first_user_pays_then_others_are_cached():
    floor = Floor()
    _entered(floor.enter(_tokens(100), key="k"))
    prefix = floor.room.prefixes.nodes[0]
    assert [prefix.charge(), prefix.charge(), prefix.charge()] == [0, 99, 99]


def test_room_when_answer_has_no_limit_then_it_grows_until_the_context_ends():
    floor = Floor(cells=1200)
    sequence = _entered(floor.enter(_tokens(100), max_tokens=None))
    assert sequence.allowance == OPEN_BLOCK
    assert floor.room.grow(sequence)
    assert floor.room.grow(sequence)
    assert sequence.allowance == 1100
    assert not floor.room.grow(sequence)


@pytest.mark.parametrize("key", ["", "k"])
def test_room_when_everything_left_then_everything_is_free(key: str):
    floor = Floor()
    for sequence in [_entered(floor.enter(_tokens(100), key=key)) for _ in range(2)]:
        floor.room.leave(sequence)
    floor.room.forget_prefixes()
    assert floor.room.free_cells == 1000


def test_room_when_answer_is_finished_then_a_longer_chat_goes_on_from_it():
    floor = Floor()
    first = _entered(floor.enter(_tokens(100), max_tokens=50, key="k"))
    floor.answer(first, _tokens(40, start=500))
    floor.room.retire(first)
    chat = [*_tokens(100), *_tokens(40, start=500), *_tokens(20, start=700)]
    second = _entered(floor.enter(chat, key="k"))
    assert second.base is not None
    assert second.base.base_length == 100 + 39
    floor.check()


def test_room_when_a_chat_goes_on_then_it_stays_one_prefix():
    floor = Floor()
    chat = _tokens(50)
    for turn in range(1, 5):
        sequence = _entered(floor.enter(chat, max_tokens=40, key="k"))
        floor.answer(sequence, _tokens(30, start=1000 * turn))
        floor.room.retire(sequence)
        chat = [*sequence.tokens, *_tokens(20, start=1000 * turn + 500)]
        floor.check()
        assert len(floor.room.prefixes.nodes) == 1
        assert floor.room.free_cells == 1000 - (len(sequence.tokens) - 1)


def test_room_when_same_answer_comes_again_then_it_is_kept_once():
    floor = Floor()
    for _ in range(3):
        sequence = _entered(floor.enter(_tokens(50), max_tokens=40, key="k"))
        floor.answer(sequence, _tokens(30, start=1000))
        floor.room.retire(sequence)
        floor.check()
    assert floor.room.free_cells == 1000 - 79


def test_room_when_a_part_is_shared_then_the_rest_can_be_evicted():
    floor = Floor()
    long = _entered(floor.enter(_tokens(600), key="k"))
    floor.compute()
    floor.room.leave(long)
    _entered(floor.enter([*_tokens(100), 9999], key="k"))
    assert floor.enter(_tokens(700, start=5000)) is not None
    floor.compute()
    floor.check()


def test_room_when_candidates_come_together_then_their_prompt_is_computed_once():
    floor = Floor(sequences=8)
    candidates = [_entered(floor.enter(_tokens(100), key="k")) for _ in range(8)]
    floor.compute()
    assert floor.memory.used == 99 + 8
    assert len({id(each.base) for each in candidates}) == 1
    floor.check()


def test_room_when_system_message_is_the_boxs_own_then_other_owners_start_from_it():
    floor = Floor(sequences=3)
    system = _tokens(200)
    first = _entered(floor.enter([*system, *_tokens(50, start=1000)], key="a", shared=200))
    floor.compute()
    second = _entered(floor.enter([*system, *_tokens(50, start=1000)], key="b", shared=200))
    third = _entered(floor.enter([*system, 7], shared=200))
    floor.compute()
    assert floor.memory.used == 200 + 50 + 50 + 1
    assert second.base is not first.base
    assert third.base is not None
    assert third.base.shared
    floor.check()


def test_room_when_other_owner_guesses_the_text_then_only_the_system_message_is_shared():
    floor = Floor()
    secret = [*_tokens(200), *_tokens(50, start=1000)]
    first = _entered(floor.enter(secret, key="a", shared=200))
    floor.answer(first, _tokens(20, start=3000))
    floor.room.retire(first)
    spy = _entered(floor.enter(secret, key="b", shared=200))
    assert spy.base is not None
    assert spy.base.base_length == 200
    greedy = _entered(floor.enter(secret, key="c"))
    assert greedy.base is not None
    assert greedy.base.base is None


def test_room_when_system_message_is_new_then_its_first_user_pays_for_all():
    floor = Floor()
    sequence = _entered(floor.enter(_tokens(100), key="a", shared=60))
    assert sequence.base is not None
    assert sequence.base.charge() == 0
    other = _entered(floor.enter([*_tokens(60), *_tokens(40, start=900)], key="b", shared=60))
    assert other.base is not None
    assert other.base.charge() == 60


def test_room_when_answer_may_be_shifted_then_it_shares_nothing():
    floor = Floor(shiftable=True)
    _entered(floor.enter(_tokens(100), key="k"))
    floor.compute()
    assert _entered(floor.enter(_tokens(100), key="k", shift=True)).base is None


def test_room_when_memory_cannot_shift_then_wish_to_shift_costs_no_sharing():
    floor = Floor(shiftable=False)
    _entered(floor.enter(_tokens(100), key="k"))
    assert _entered(floor.enter(_tokens(100), key="k", shift=True)).base is not None


@pytest.mark.parametrize("divisible", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_room_when_jobs_come_and_go_at_random_then_memory_and_books_agree(
    seed: int, divisible: bool
):
    drawn = random.Random(seed)
    floor = Floor(cells=600, sequences=4, divisible=divisible)
    texts = [[drawn.randrange(3) for _ in range(200)] for _ in range(3)]
    for _ in range(300):
        act = drawn.random()
        running = floor.room.sequences
        if act < 0.4:
            text = drawn.choice(texts)[: drawn.randrange(1, 200)]
            tail = [drawn.randrange(3) for _ in range(drawn.randrange(1, 40))]
            most = drawn.choice([None, 20])
            floor.enter([*text, *tail], max_tokens=most, key=drawn.choice("ab"), shared=100)
        elif act < 0.6:
            _advance_one(floor, drawn)
        elif running and act < 0.9:
            chosen = drawn.choice(running)
            floor.answer(chosen, [drawn.randrange(3) for _ in range(drawn.randrange(1, 20))])
            floor.room.retire(chosen)
        elif running:
            floor.room.leave(drawn.choice(running))
        floor.check()
    for sequence in list(floor.room.sequences):
        floor.room.leave(sequence)
    floor.room.forget_prefixes()
    assert floor.room.free_cells == 600
    assert floor.memory.used == 0


def _advance_one(floor: Floor, drawn: random.Random) -> None:
    lanes = [lane for lane in floor.lanes() if lane.pending and can_start(lane)]
    if lanes:
        lane = drawn.choice(lanes)
        floor.advance(lane, drawn.randrange(1, lane.pending + 1))
