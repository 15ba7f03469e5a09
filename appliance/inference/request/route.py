"""Routes: the models that a name leads to, in the order in which they are tried."""

import random
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, structs

from appliance.domain.models import ModelInfo

MAX_NAMES_SHOWN = 20


class WeightedModel(Struct, frozen=True):
    """A model of a configured route, named as a request would name it.

    `weight` is its share of the requests for which it is tried first; with 0 it is tried only
    after the others.
    """

    model: str
    weight: float = 0.0


class Route(Struct, frozen=True):
    """The target of a request: a provider, the provider's name for the model, and its state.

    `fallbacks` are tried in order if this target fails.
    """

    provider: str
    model: str
    info: ModelInfo
    fallbacks: "tuple[Route, ...]" = ()

    @property
    def path(self) -> str:
        return f"{self.provider}/{self.model}"

    @property
    def targets(self) -> "tuple[Route, ...]":
        return (self, *self.fallbacks)


def build_route(models: Sequence[ModelInfo]) -> Route:
    """A route along these models. There must be at least one."""
    fallbacks = tuple(Route(info.provider, info.name, info) for info in models[1:])
    return Route(models[0].provider, models[0].name, models[0], fallbacks)


def join_routes(targets: Sequence[Route]) -> Route:
    """A route along these targets. There must be at least one."""
    return structs.replace(
        targets[0], fallbacks=tuple(structs.replace(each, fallbacks=()) for each in targets[1:])
    )


def order_by_weight(models: Sequence[WeightedModel], rng: random.Random) -> list[WeightedModel]:
    """The order to try them in: the first is drawn by weight, unless all weights are 0."""
    if not any(model.weight for model in models):
        return list(models)
    weights = [model.weight for model in models]
    first = rng.choices(range(len(models)), weights)[0]
    rest = [model for index, model in enumerate(models) if index != first]
    return [models[first], *rest]


def find_model(name: str, models: Iterable[ModelInfo]) -> ModelInfo | None:
    """The model of that alias, or of that "provider/name"."""
    by_path = None
    for info in models:
        if info.name == name:
            return info
        if by_path is None and name.endswith(info.name) and model_path(info) == name:
            by_path = info
    return by_path


def model_path(info: ModelInfo) -> str:
    return f"{info.provider}/{info.name}"


def summarize_names(models: Sequence[ModelInfo], aliases: Mapping[str, object]) -> str:
    """The names that exist, for the text of an error."""
    names = [*aliases, *(model_path(info) for info in models)]
    shown = ", ".join(names[:MAX_NAMES_SHOWN])
    more = len(names) - MAX_NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown
