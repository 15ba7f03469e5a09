"""GET /v1/models, for OpenAI's clients and the Monkey Coder SDK."""

from collections import defaultdict
from collections.abc import Sequence

from litestar import get
from litestar.params import FromPath, FromQuery

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.times import iso
from appliance.api.openai.answer_schemas import ModelAnswer, ModelListAnswer
from appliance.domain.models import ModelInfo
from appliance.errors import UnknownModel


@get("/models")
async def list_models(
    services: ServicesDependency, provider: FromQuery[str | None] = None
) -> ModelListAnswer:
    """The available models, with the state of each."""
    return model_list(await services.catalog.models(), provider)


@get("/models/{model:path}")
async def get_model(services: ServicesDependency, model: FromPath[str]) -> ModelAnswer:
    """One model, by its id in the list or as provider/name."""
    requested = model.strip("/")
    available = _assign_ids(await services.catalog.models())
    for identity, info in available:
        if requested in (identity, _path(info)):
            return _answer(identity, info)
    ids = [identity for identity, _ in available]
    raise services.catalog.find_model_problem(requested) or UnknownModel(
        f"model {requested!r} does not exist; available: {', '.join(ids) or 'none'}",
        details={"model": requested},
    )


def model_list(models: Sequence[ModelInfo], provider: str | None) -> ModelListAnswer:
    """The models of `provider`, or all. The ids are the same in both cases."""
    data = [
        _answer(identity, info)
        for identity, info in _assign_ids(models)
        if provider in (None, info.provider)
    ]
    by_provider: dict[str, list[ModelAnswer]] = defaultdict(list)
    for each in data:
        by_provider[each.provider].append(each)
    default = next((each.id for each in data if each.default), None)
    return ModelListAnswer(
        data,
        dict(by_provider),
        len(data),
        default,
        provider,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


def _assign_ids(models: Sequence[ModelInfo]) -> list[tuple[str, ModelInfo]]:
    """Each model with its shortest unambiguous id: its name, or provider/name if taken."""
    used: set[str] = set()
    assigned: list[tuple[str, ModelInfo]] = []
    for info in models:
        identity = _path(info) if info.name in used else info.name
        used.add(identity)
        assigned.append((identity, info))
    return assigned


def _answer(identity: str, info: ModelInfo) -> ModelAnswer:
    return ModelAnswer(
        id=identity,
        owned_by=info.provider,
        name=info.name,
        provider=info.provider,
        status=info.state,
        default=info.is_default,
        context_length=info.context_tokens,
        max_parallel=info.max_parallel,
        tokens_per_second=info.decode_tokens_per_second,
        description=info.description,
        problem=info.problem or None,
        embeddings=info.embeds,
        fill_in_the_middle=info.fills_in,
        display_name=info.name,
        created=int(info.created_at or 0),
        created_at=iso(info.created_at or 0),
    )


def _path(info: ModelInfo) -> str:
    return f"{info.provider}/{info.name}"
