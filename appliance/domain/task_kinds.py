"""The kinds of tasks that this program knows, and what each stores."""

from collections.abc import Mapping

from msgspec import Struct

from appliance.domain.tasks import TaskKind, TaskRequest, TaskResult


class KindSchema(Struct, frozen=True):
    """The Structs of a kind's request and result.

    `large_fields` of the request hold files: they are stored apart, and lists leave them out.
    """

    request: type[TaskRequest]
    result: type[TaskResult]
    large_fields: tuple[str, ...]


SCHEMAS: Mapping[str, KindSchema] = {
    TaskKind.EXECUTE: KindSchema(TaskRequest, TaskResult, ("files", "tests")),
}


def kind_of(request: TaskRequest) -> TaskKind:
    """The kind of task that has this request."""
    return next(TaskKind(kind) for kind, each in SCHEMAS.items() if each.request is type(request))
