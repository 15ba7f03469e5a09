"""GET /v1/models, as OpenAI's clients and the Monkey Coder SDK ask for it."""

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
    """The models on offer, with the state of each."""
    return model_list(await services.catalog.models(), provider)


@get("/models/{model:path}")
async def get_model(services: ServicesDependency, model: FromPath[str]) -> ModelAnswer:
    """One model, by the id of the list or as provider/name."""
    wanted = model.strip("/")
    offered = _with_ids(await services.catalog.models())
    for identity, info in offered:
        if wanted in (identity, _path(info)):
            return _answer(identity, info)
    ids = [identity for identity, _ in offered]
    raise UnknownModel(
        f"model {wanted!r} does not exist here; there are: {', '.join(ids) or 'none'}",
        details={"model": wanted},
    )


def model_list(models: Sequence[ModelInfo], provider: str | None) -> ModelListAnswer:
    """`provider` leaves out what others offer, but not their claim to a short id."""
    data = [
        _answer(identity, info)
        for identity, info in _with_ids(models)
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


def _with_ids(models: Sequence[ModelInfo]) -> list[tuple[str, ModelInfo]]:
    """Each with the shortest name that means it: its own, or provider/name if that is taken."""
    taken: set[str] = set()
    found: list[tuple[str, ModelInfo]] = []
    for info in models:
        identity = _path(info) if info.name in taken else info.name
        taken.add(identity)
        found.append((identity, info))
    return found


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
