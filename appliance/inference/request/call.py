"""What the gateway is asked for, for whom, and how urgently."""

from msgspec import Struct

from appliance.domain.completions import Urgency
from appliance.domain.messages import CompletionRequest
from appliance.domain.usage import UsageKind
from appliance.inference.request.route import Route
from appliance.inference.request.token_estimate import Size


class Caller(Struct, frozen=True):
    """Who a request is made for.

    `owner` is the key of fairness and of what may be reused ("user:7"; "" is nobody).
    `username` is None where it is not known yet.
    """

    owner: str = ""
    user_id: int | None = None
    key_id: int | None = None
    username: str | None = None


class Call(Struct, frozen=True, kw_only=True):
    """Anything that a provider is to do, along a route."""

    route: Route
    size: Size
    caller: Caller = Caller()
    kind: UsageKind = UsageKind.CHAT
    urgency: Urgency = Urgency.INTERACTIVE


class CompletionCall(Call, frozen=True, kw_only=True):
    """One completion; the request's model is set for each candidate of the route in turn."""

    request: CompletionRequest
    may_cache: bool = False
