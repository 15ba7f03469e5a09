"""Names of models, and what they lead to: one model, or several to try in turn."""

import random
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from appliance.domain.models import ModelInfo

NAMES_SHOWN = 20


class Candidate(Struct, frozen=True):
    """A model that a route may lead to, as a request would name it.

    `weight` is this model's share of the requests that it gets first; with 0 it is only
    what others fall back to.
    """

    model: str
    weight: float = 0.0


class Route(Struct, frozen=True):
    """Where a request goes: the provider, its own name for the model, and its state.

    `others` are to be tried, in this order, where it fails there.
    """

    provider: str
    model: str
    info: ModelInfo
    others: "tuple[Route, ...]" = ()

    @property
    def path(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def all(self) -> "tuple[Route, ...]":
        return (self, *self.others)


def route_of(offers: Sequence[ModelInfo]) -> Route:
    """A route along these models, which must not be empty."""
    others = tuple(Route(info.provider, info.name, info) for info in offers[1:])
    return Route(offers[0].provider, offers[0].name, offers[0], others)


def along(routes: Sequence[Route]) -> Route:
    """One route of several, which must not be empty."""
    return structs.replace(
        routes[0], others=tuple(structs.replace(r, others=()) for r in routes[1:])
    )


def in_order(candidates: Sequence[Candidate], chance: random.Random) -> list[Candidate]:
    """The candidates as they are to be tried: the first is drawn by weight, if any has one."""
    if not any(candidate.weight for candidate in candidates):
        return list(candidates)
    weights = [candidate.weight for candidate in candidates]
    first = chance.choices(range(len(candidates)), weights)[0]
    rest = [candidate for index, candidate in enumerate(candidates) if index != first]
    return [candidates[first], *rest]


def named(name: str, offered: Iterable[ModelInfo]) -> ModelInfo | None:
    """The model of that alias, or of that "provider/name"."""
    by_path = None
    for info in offered:
        if info.name == name:
            return info
        if by_path is None and name.endswith(info.name) and path(info) == name:
            by_path = info
    return by_path


def path(info: ModelInfo) -> str:
    return f"{info.provider}/{info.name}"


def listed(offered: Sequence[ModelInfo], aliases: Mapping[str, object]) -> str:
    """What exists, for an error's text."""
    names = [*aliases, *(path(info) for info in offered)]
    shown = ", ".join(names[:NAMES_SHOWN])
    more = len(names) - NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
