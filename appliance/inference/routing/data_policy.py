"""The data policy: which providers may see a text, by the user and labels of the request."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from appliance.errors import Forbidden
from appliance.inference.request.route import Route, join_routes

_MAX_LABEL_SHOWN = 80


class DataPolicy(Struct, frozen=True):
    """Texts with a label or of a user of `local_only_*` are sent to local providers only.

    `denied_providers` are used by nobody.
    """

    local_only_labels: frozenset[str] = frozenset()
    local_only_users: frozenset[str] = frozenset()
    denied_providers: frozenset[str] = frozenset()

    def permission_for(
        self, username: str | None, labels: Sequence[str], is_local: Callable[[str], bool]
    ) -> "Permission":
        """The permission of a request of this user with these labels."""
        label = next((label for label in labels if label in self.local_only_labels), None)
        reason = ""
        if label is not None:
            reason = f"text with the label {label[:_MAX_LABEL_SHOWN]!r} never leaves this machine"
        elif username in self.local_only_users:
            reason = f"text of the user {username!r} never leaves this machine"
        return Permission(self.denied_providers, reason, is_local)


class Permission(Struct, frozen=True):
    """What one request may use. `local_only_reason` is "" if remote providers are allowed."""

    denied_providers: frozenset[str]
    local_only_reason: str
    is_local: Callable[[str], bool]

    def allows(self, provider: str) -> bool:
        return provider not in self.denied_providers and (
            not self.local_only_reason or self.is_local(provider)
        )

    def restrict(self, route: Route) -> Route:
        """The route along its allowed targets. Raises Forbidden if none is allowed."""
        allowed = [target for target in route.targets if self.allows(target.provider)]
        if not allowed:
            raise self._forbidden(route)
        return route if len(allowed) == len(route.targets) else join_routes(allowed)

    def _forbidden(self, route: Route) -> Forbidden:
        models = [target.path for target in route.targets]
        reason = self.local_only_reason or f"the administrator denies {route.provider}"
        return Forbidden(
            f"{', '.join(models)} may not be used for this request: {reason}; use a local model",
            details={"models": models},
        )
