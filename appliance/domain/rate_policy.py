"""The rate policy: how many requests a caller may make, by plan, dialect and class of routes."""

from collections.abc import Mapping

from msgspec import Struct


class RateLimit(Struct, frozen=True):
    """At most `limit` requests in any `window_s` seconds.

    With a `burst`, at most that many at once: they are replenished at `limit` per window.
    """

    limit: int
    window_s: float
    burst: int = 0


class RateScope(Struct, frozen=True):
    """What a row of the policy applies to; "" is any."""

    plan: str = ""
    dialect: str = ""
    route_class: str = ""


EVERYTHING = RateScope()


class RatePolicy:
    """The table of limits: (plan, dialect, class of routes) → limits that all hold.

    The most specific row for a request applies, and only that one: the plan decides before the
    dialect, that before the class of routes. Requests under the same row are counted together.
    There is a row for everything; a row without limits allows everything.
    """

    def __init__(self, rows: Mapping[RateScope, tuple[RateLimit, ...]]) -> None:
        self.rows = dict(rows)
        if EVERYTHING not in self.rows:
            raise ValueError("the rate policy has no row for everything")

    def find(self, plan: str, dialect: str, route_class: str) -> RateScope:
        """The scope of the row that applies."""
        if len(self.rows) == 1:
            return EVERYTHING
        scopes = (
            RateScope(a_plan, a_dialect, a_class)
            for a_plan in (plan, "")
            for a_dialect in (dialect, "")
            for a_class in (route_class, "")
        )
        return next(scope for scope in scopes if scope in self.rows)
