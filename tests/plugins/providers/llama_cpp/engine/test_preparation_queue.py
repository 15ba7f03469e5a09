"""Whose prompt is built next."""

from appliance.domain.messages import CompletionRequest
from plugins.providers.llama_cpp.engine.preparation_queue import PreparationQueue
from plugins.providers.llama_cpp.engine.sequences import Job


def _job(number: int, owner: str) -> Job:
    return Job(number, CompletionRequest("tiny", owner=owner))


def test_get_when_one_owner_has_many_jobs_then_owners_are_served_in_turn():
    """F62: the owner of many large prompts delays others by one of them at most."""
    queue = PreparationQueue()
    for number, owner in enumerate(["a", "a", "a", "b", "c", "b"]):
        queue.put(_job(number, owner))
    assert [queue.get().number for _ in range(6)] == [0, 3, 4, 1, 5, 2]


def test_remove_when_job_waits_then_it_is_not_prepared():
    queue = PreparationQueue()
    first, second = _job(1, "a"), _job(2, "a")
    queue.put(first)
    queue.put(second)
    assert queue.remove(first)
    assert not queue.remove(first)
    assert queue.get() is second
    assert not queue.remove(second)
