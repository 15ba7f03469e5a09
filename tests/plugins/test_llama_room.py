"""Who gets cells and sequence ids: admission, sharing, eviction."""

from typing import cast

import pytest

from appliance.domain.messages import CompletionRequest, Message, MessageRole
from plugins.providers.llama_cpp.room import OPEN_BLOCK, Room
from plugins.providers.llama_cpp.sampling import Sampler
from plugins.providers.llama_cpp.sequences import Job, Sequence


class _NoSampler:
    def close(self) -> None:
        """Nothing to free."""


class _Floor:
    """A room with the steps that the batcher would do around it."""

    def __init__(self, *, cells: int = 1000, sequences: int = 2, divisible: bool = True) -> None:
        self.forgotten: list[int] = []
        self.room = Room(
            cells=cells, sequences=sequences, context_tokens=cells, divisible=divisible
        )

    def enter(
        self, tokens: list[int], *, max_tokens: int | None = 10, key: str = ""
    ) -> Sequence | None:
        job = Job(1, CompletionRequest("m", (Message(MessageRole.USER, ""),), owner=key))
        job.request = CompletionRequest("m", (), max_tokens=max_tokens, owner=key)
        job.tokens = tokens
        placed = self.room.place(job, self.forgotten.append)
        if placed is None:
            return None
        plan, slot = placed
        base, length = plan.base, plan.base_length
        if plan.makes_prefix:
            base = self.room.enter_prefix(job, plan)
            length = len(base.tokens)
        sampler = cast("Sampler", _NoSampler())
        sequence = Sequence(
            slot, job, base, length, allowance=plan.allowance, sampler=sampler, stops=()
        )
        self.room.sequences.append(sequence)
        return sequence

    def leave(self, sequence: Sequence) -> None:
        self.room.leave(sequence, self.forgotten.append)

    def compute_prefixes(self) -> None:
        for prefix in self.room.prefixes:
            prefix.position = len(prefix.tokens)


def _tokens(count: int, start: int = 0) -> list[int]:
    return list(range(start, start + count))


def _entered(sequence: Sequence | None) -> Sequence:
    assert sequence is not None
    return sequence


def test_room_when_job_fits_then_prompt_and_answer_are_reserved():
    floor = _Floor()
    _entered(floor.enter(_tokens(100), max_tokens=50))
    assert floor.room.free_cells == 1000 - 150


def test_room_when_cells_are_taken_then_job_waits_until_one_leaves():
    floor = _Floor()
    first = _entered(floor.enter(_tokens(600), max_tokens=100))
    assert floor.enter(_tokens(400)) is None
    floor.leave(first)
    assert floor.enter(_tokens(400)) is not None


def test_room_when_all_slots_are_taken_then_job_waits():
    floor = _Floor(sequences=1)
    _entered(floor.enter(_tokens(10)))
    assert floor.enter(_tokens(10)) is None


def test_room_when_key_and_prompt_are_same_then_prompt_is_reserved_once():
    floor = _Floor()
    first, second = (_entered(floor.enter(_tokens(100), key="k")) for _ in range(2))
    assert floor.room.free_cells == 1000 - 99 - 2 * (1 + 10)
    assert first.base is second.base is floor.room.prefixes[0]


def test_room_when_keys_differ_then_nothing_is_shared():
    floor = _Floor()
    first, second = (_entered(floor.enter(_tokens(100), key=key)) for key in "ab")
    assert first.base is not second.base


def test_room_when_key_is_empty_then_nothing_is_shared():
    floor = _Floor()
    assert _entered(floor.enter(_tokens(100))).base is None
    assert not floor.room.prefixes


def test_room_when_prompts_only_begin_alike_then_beginning_is_shared():
    floor = _Floor()
    _entered(floor.enter(_tokens(100), key="k"))
    other = _entered(floor.enter([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is floor.room.prefixes[0]
    assert other.base.base_length == 60
    assert floor.room.free_cells == 1000 - 99 - 39 - 2 * 11


def test_room_when_memory_is_indivisible_then_only_whole_prefixes_are_shared():
    floor = _Floor(divisible=False)
    _entered(floor.enter(_tokens(100), key="k"))
    other = _entered(floor.enter([*_tokens(60), *_tokens(40, start=500)], key="k"))
    assert other.base is not None
    assert other.base.base is None
    same = _entered(_Floor(divisible=False).enter(_tokens(100), key="k"))
    assert same.base_length == 99


def test_room_when_last_user_leaves_then_computed_prefix_stays_for_the_next():
    floor = _Floor()
    first = _entered(floor.enter(_tokens(100), key="k"))
    floor.compute_prefixes()
    prefix = floor.room.prefixes[0]
    floor.leave(first)
    assert floor.room.prefixes == [prefix]
    assert _entered(floor.enter(_tokens(100), key="k")).base is prefix


def test_room_when_last_user_leaves_early_then_unfinished_prefix_goes():
    floor = _Floor()
    floor.leave(_entered(floor.enter(_tokens(100), key="k")))
    assert not floor.room.prefixes
    assert floor.room.free_cells == 1000


def test_room_when_cells_are_needed_then_idle_prefix_makes_way():
    floor = _Floor()
    first = _entered(floor.enter(_tokens(500), key="k"))
    floor.compute_prefixes()
    holder = floor.room.prefixes[0].slot
    floor.leave(first)
    assert floor.enter(_tokens(900)) is not None
    assert holder in floor.forgotten


def test_room_when_prefix_is_in_use_then_it_is_never_evicted():
    floor = _Floor()
    _entered(floor.enter(_tokens(500), key="k"))
    floor.compute_prefixes()
    assert floor.enter(_tokens(900)) is None
    assert floor.room.prefixes


def test_room_when_own_prefix_leaves_too_little_then_it_is_given_up():
    floor = _Floor()
    first = _entered(floor.enter(_tokens(800), key="k"))
    floor.compute_prefixes()
    floor.leave(first)
    assert floor.enter([*_tokens(20), *_tokens(880, start=2000)], key="k") is not None


def test_room_when_no_id_for_a_prefix_is_left_then_job_runs_alone():
    floor = _Floor(sequences=2)
    holders = [_entered(floor.enter(_tokens(50, start=100 * at), key=str(at))) for at in range(2)]
    floor.compute_prefixes()
    floor.leave(holders[1])
    third = _entered(floor.enter(_tokens(50, start=900), key="z"))
    assert third.base is not None
    assert len(floor.room.prefixes) == 2


def test_room_when_first_user_pays_then_others_are_cached():
    floor = _Floor()
    _entered(floor.enter(_tokens(100), key="k"))
    prefix = floor.room.prefixes[0]
    assert [prefix.charge(), prefix.charge(), prefix.charge()] == [0, 99, 99]


def test_room_when_answer_has_no_limit_then_it_grows_until_the_context_ends():
    floor = _Floor(cells=1200)
    sequence = _entered(floor.enter(_tokens(100), max_tokens=None))
    assert sequence.allowance == OPEN_BLOCK
    assert floor.room.grow(sequence, floor.forgotten.append)
    assert floor.room.grow(sequence, floor.forgotten.append)
    assert sequence.allowance == 1100
    assert not floor.room.grow(sequence, floor.forgotten.append)


def test_room_when_answer_has_a_limit_then_it_never_grows():
    floor = _Floor()
    assert not floor.room.grow(_entered(floor.enter(_tokens(100))), floor.forgotten.append)


@pytest.mark.parametrize("key", ["", "k"])
def test_room_when_everything_left_then_everything_is_free(key: str):
    floor = _Floor()
    for sequence in [_entered(floor.enter(_tokens(100), key=key)) for _ in range(2)]:
        floor.leave(sequence)
    floor.room.forget_prefixes(floor.forgotten.append)
    assert floor.room.free_cells == 1000
