"""Which providers may see a text: what the administrator bars by user and by label."""

from collections.abc import Callable, Sequence

from msgspec import Struct

from appliance.errors import Forbidden
from appliance.inference.request.route import Route, along


class Policy(Struct, frozen=True):
    """`local_only_*`: what belongs to these labels and users never leaves the box."""

    local_only_labels: frozenset[str] = frozenset()
    local_only_users: frozenset[str] = frozenset()
    denied_providers: frozenset[str] = frozenset()

    def permits(
        self, username: str | None, labels: Sequence[str], is_local: Callable[[str], bool]
    ) -> "Permission":
        """What a request of this user with these labels may use."""
        label = next((label for label in labels if label in self.local_only_labels), None)
        why = ""
        if label is not None:
            why = f"what is labelled {label[:80]!r} never leaves this box"
        elif username in self.local_only_users:
            why = f"what the user {username!r} asks never leaves this box"
        return Permission(self.denied_providers, why, is_local)


class Permission(Struct, frozen=True):
    """`local_only` says why only models of the box may be used; "" if others may be, too."""

    denied: frozenset[str]
    local_only: str
    is_local: Callable[[str], bool]

    def allows(self, provider: str) -> bool:
        return provider not in self.denied and (not self.local_only or self.is_local(provider))

    def within(self, route: Route) -> Route:
        """The route without what is barred. Raises Forbidden if nothing is left, and says why."""
        allowed = [candidate for candidate in route.all if self.allows(candidate.provider)]
        if not allowed:
            raise self._refusal(route)
        return route if len(allowed) == len(route.all) else along(allowed)

    def _refusal(self, route: Route) -> Forbidden:
        """Why none of the route's models may be used."""
        models = ", ".join(candidate.path for candidate in route.all)
        why = self.local_only or f"the administrator denies {route.provider}"
        return Forbidden(
            f"{models} may not be used for this: {why}; name a model of this box",
            details={"models": [candidate.path for candidate in route.all]},
        )
