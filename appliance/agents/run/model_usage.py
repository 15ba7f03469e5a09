"""What the model calls of a task used, by model."""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import Struct

from appliance.domain.messages import TokenUsage
from appliance.domain.tasks import EventKind, ExecuteEvent, ModelUsage, TaskEvent


class ModelCall(Struct, frozen=True):
    """What one generation used.

    `provider` and `model` answered, "" in older journals. `cost` is in US dollars,
    None without a price.
    """

    usage: TokenUsage = TokenUsage()
    provider: str = ""
    model: str = ""
    cost: float | None = None


def sum_by_model(calls: Iterable[ModelCall], provider: str, model: str) -> tuple[ModelUsage, ...]:
    """The usage of each model; calls that name none count for `provider` and `model`."""
    by_model: dict[tuple[str, str], ModelUsage] = {}
    for call in calls:
        key = (call.provider or provider, call.model or model)
        before = by_model.get(key, ModelUsage(*key, TokenUsage()))
        costs = [cost for cost in (before.cost, call.cost) if cost is not None]
        total = sum(costs) if costs else None
        by_model[key] = ModelUsage(*key, before.usage + call.usage, total)
    return tuple(each for each in by_model.values() if each.usage.total_tokens)


def read_usage(events: Sequence[TaskEvent]) -> tuple[ModelUsage, ...]:
    """What the calls used that a journal records, of a task without a result."""
    calls = list[ModelCall]()
    plan = ModelCall()
    for event in events:
        if event.kind == ExecuteEvent.PLANNED:
            plan = msgspec.convert(event.data, ModelCall)
        elif event.kind == ExecuteEvent.CANDIDATE:
            calls.append(msgspec.convert(event.data, ModelCall))
        elif event.kind == EventKind.PROGRESS and "inputs" in event.data:
            calls.append(msgspec.convert(event.data["inputs"], ModelCall))
    return sum_by_model(calls, plan.provider, plan.model)
