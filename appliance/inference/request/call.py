"""Calls to the gateway: what is requested, along which route, and for whom."""

from msgspec import Struct

from appliance.domain.messages import CompletionRequest
from appliance.domain.tasks import Priority
from appliance.domain.usage import TaskCalls, UsageKind
from appliance.inference.request.route import Route
from appliance.inference.request.token_estimate import TokenEstimate


class Caller(Struct, frozen=True):
    """Who makes a request.

    `owner` ("user:7", or "" for nobody) is the key of the fair queue and of the response
    cache. `username` is None until it is looked up.
    """

    owner: str = ""
    user_id: int | None = None
    key_id: int | None = None
    username: str | None = None


class Call(Struct, frozen=True, kw_only=True):
    """What completions and embeddings have in common. `task_calls` is that of a task's attempt."""

    route: Route
    estimate: TokenEstimate
    caller: Caller = Caller()
    kind: UsageKind = UsageKind.CHAT
    priority: Priority = Priority.INTERACTIVE
    task_calls: TaskCalls | None = None


class CompletionCall(Call, frozen=True, kw_only=True):
    """One completion. The request's model is replaced by that of each target in turn."""

    request: CompletionRequest
    may_cache: bool = False
