"""Fairness between owners: in admission, and in each step's prefill tokens."""

import pytest

from appliance.domain.messages import CompletionRequest
from plugins.providers.llama_cpp.engine.fairness import JobQueue, divide_tokens
from plugins.providers.llama_cpp.engine.sequences import Job


def _queue(*owners: str) -> JobQueue:
    queue = JobQueue()
    for number, owner in enumerate(owners):
        queue.append(Job(number, CompletionRequest("m", owner=owner)))
    return queue


def _order(queue: JobQueue, running: dict[str, int]) -> list[int]:
    """The numbers of the jobs in the order of admission, none of which ends."""
    order: list[int] = []
    while (job := queue.next_job(running)) is not None:
        queue.remove(job)
        running[job.owner] = running.get(job.owner, 0) + 1
        order.append(job.number)
    return order


def test_queue_when_empty_then_no_job_is_next():
    assert _queue().next_job({}) is None
    assert not _queue()


def test_queue_when_one_owner_waits_then_in_order_of_arrival():
    assert _order(_queue("a", "a", "a"), {}) == [0, 1, 2]


def test_queue_when_one_owner_has_many_then_others_come_in_between():
    assert _order(_queue("a", "a", "a", "b", "c"), {}) == [0, 3, 4, 1, 2]


def test_queue_when_owner_has_answers_running_then_others_go_first():
    assert _order(_queue("a", "a", "b", "b", "b"), {"a": 2}) == [2, 3, 0, 4, 1]


def test_queue_when_jobs_match_then_they_are_removed():
    queue = _queue("a", "b", "a")
    queue.remove_matching(lambda job: job.owner == "a")
    assert len(queue) == 1
    assert _order(queue, {}) == [1]


@pytest.mark.parametrize(
    ("demands", "total", "shares"),
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
def test_tokens_when_divided_then_equal_shares_and_spare_ones_to_others(
    demands: dict[str, int], total: int, shares: dict[str, int]
):
    assert divide_tokens(demands, total) == shares
