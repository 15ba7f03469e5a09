"""How one attempt at a task ended."""

import structlog
from msgspec import Struct, json

from appliance.domain.task_kinds import SCHEMAS
from appliance.domain.tasks import TaskFailure, TaskResult
from appliance.errors import ApplianceError, DeadlineExceeded

_log = structlog.get_logger()


class Completed(Struct, frozen=True):
    result: TaskResult


class Failed(Struct, frozen=True):
    failure: TaskFailure


class Cancelled(Struct, frozen=True):
    """By a user."""


class Postponed(Struct, frozen=True):
    """The server shuts down: the task goes back to the queue."""


class LeaseLost(Struct, frozen=True):
    """Another process may run the task: nothing is written."""


End = Completed | Failed | Cancelled
Outcome = End | Postponed | LeaseLost


def completed(kind: str, result: object) -> Outcome:
    """The outcome of a handler that returned: a failure if the result cannot be stored."""
    expected = SCHEMAS[kind].result
    try:
        if not isinstance(result, expected):
            raise TypeError(
                f"the handler returned {type(result).__name__}, not {expected.__name__}"
            )
        json.decode(json.encode(result), type=expected)
    except (TypeError, ValueError) as error:
        return failed(error)
    return Completed(result)


def failed(error: BaseException) -> Failed:
    """The outcome of a handler that raised. Only an ApplianceError's message is shown."""
    if not isinstance(error, ApplianceError):
        _log.error("task handler failed", exc_info=error)
        return internal_error("the task failed because of an internal error; see the server's log")
    # A message may quote a model's text with half a surrogate pair, which can't be stored.
    message = error.message.encode("utf-8", "replace").decode()
    return Failed(TaskFailure(error.code, message, _storable(error.details)))


def internal_error(message: str) -> Failed:
    return Failed(TaskFailure(ApplianceError.code, message))


def timed_out(timeout_s: float) -> Failed:
    message = f"the task did not end within {timeout_s:g} s and was stopped"
    return Failed(TaskFailure(DeadlineExceeded.code, message, {"timeout_s": timeout_s}))


def _storable(details: dict[str, object]) -> dict[str, object]:
    try:
        return json.decode(json.encode(details), type=dict[str, object])
    except (TypeError, ValueError):
        _log.warning("error details that are not JSON left out", keys=sorted(details))
        return {}
