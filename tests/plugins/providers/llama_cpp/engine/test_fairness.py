"""Turns between owners: in admission, and in each step's prompt tokens."""

import pytest

from appliance.domain.messages import CompletionRequest
from plugins.providers.llama_cpp.engine.fairness import Waiting, portions
from plugins.providers.llama_cpp.engine.sequences import Job


def _waiting(*owners: str) -> Waiting:
    waiting = Waiting()
    for number, owner in enumerate(owners):
        waiting.append(Job(number, CompletionRequest("m", owner=owner)))
    return waiting


def _order(waiting: Waiting, running: dict[str, int]) -> list[int]:
    """The numbers of the jobs in the order of admission, none of which ends."""
    order: list[int] = []
    while (job := waiting.first(running)) is not None:
        waiting.take(job)
        running[job.owner] = running.get(job.owner, 0) + 1
        order.append(job.number)
    return order


def test_waiting_when_nobody_waits_then_nobody_is_first():
    assert _waiting().first({}) is None
    assert not _waiting()


def test_waiting_when_one_owner_waits_then_in_order_of_arrival():
    assert _order(_waiting("a", "a", "a"), {}) == [0, 1, 2]


def test_waiting_when_one_owner_has_many_then_others_come_in_between():
    assert _order(_waiting("a", "a", "a", "b", "c"), {}) == [0, 3, 4, 1, 2]


def test_waiting_when_owner_has_answers_running_then_others_go_first():
    assert _order(_waiting("a", "a", "b", "b", "b"), {"a": 2}) == [2, 3, 0, 4, 1]


def test_waiting_when_jobs_are_unwanted_then_they_are_gone():
    waiting = _waiting("a", "b", "a")
    waiting.drop(lambda job: job.owner == "a")
    assert len(waiting) == 1
    assert _order(waiting, {}) == [1]


@pytest.mark.parametrize(
    ("wanted", "total", "granted"),
    [
        ({}, 64, {}),
        ({"a": 10}, 64, {"a": 10}),
        ({"a": 1000}, 64, {"a": 64}),
        ({"a": 1000, "b": 1000}, 64, {"a": 32, "b": 32}),
        ({"a": 1000, "b": 10}, 64, {"a": 54, "b": 10}),
        ({"a": 5, "b": 6, "c": 7}, 64, {"a": 5, "b": 6, "c": 7}),
        ({"a": 9, "b": 9, "c": 9}, 2, {"a": 1, "b": 1, "c": 0}),
    ],
)
def test_portions_when_owners_read_then_each_gets_as_much(
    wanted: dict[str, int], total: int, granted: dict[str, int]
):
    assert portions(wanted, total) == granted
