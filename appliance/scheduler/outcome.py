"""How one attempt at a task ended."""

import structlog
from msgspec import Struct, json

from appliance.domain.tasks import TaskFailure, TaskResult
from appliance.errors import ApplianceError, DeadlineExceeded

_log = structlog.get_logger()


class Completed(Struct, frozen=True):
    result: TaskResult


class Failed(Struct, frozen=True):
    failure: TaskFailure


class Cancelled(Struct, frozen=True):
    """Somebody wanted it to end."""


class Postponed(Struct, frozen=True):
    """The box shuts down: back into the queue."""


Outcome = Completed | Failed | Cancelled | Postponed


def completed(result: object) -> Outcome:
    """What a handler returned, if it can be stored and read again; else a failure."""
    try:
        if not isinstance(result, TaskResult):
            raise TypeError(f"the handler returned {type(result).__name__}, not TaskResult")
        json.decode(json.encode(result), type=TaskResult)
    except (TypeError, ValueError) as error:
        return failed(error)
    return Completed(result)


def failed(error: BaseException) -> Failed:
    """What a handler raised. Only errors of the tree show their message."""
    if not isinstance(error, ApplianceError):
        _log.error("task handler broke", exc_info=error)
        return internal("the box failed to work on this task; its log says why")
    # A message may quote what a model wrote: half a surrogate pair can't be stored.
    message = error.message.encode("utf-8", "replace").decode()
    return Failed(TaskFailure(error.code, message, _storable(error.details)))


def internal(message: str) -> Failed:
    return Failed(TaskFailure(ApplianceError.code, message))


def timed_out(timeout_s: float) -> Failed:
    message = f"the task did not end within {timeout_s:g} s; it was stopped"
    return Failed(TaskFailure(DeadlineExceeded.code, message, {"timeout_s": timeout_s}))


def _storable(details: dict[str, object]) -> dict[str, object]:
    try:
        return json.decode(json.encode(details), type=dict[str, object])
    except (TypeError, ValueError):
        _log.warning("error details that are not JSON left out", keys=sorted(details))
        return {}
