"""Finding the model that a request means."""

import pytest

from appliance.domain.messages import Message, MessageRole, Sampling
from appliance.errors import InvalidInput, ModelUnavailable, UnknownModel
from tests.support.agent_fakes import ScriptedProvider, answers_in_turn, make_gateway


def two_providers() -> tuple[ScriptedProvider, ScriptedProvider]:
    local = ScriptedProvider(answers_in_turn("local"), name="llama_cpp", models=("starter", "big"))
    cloud = ScriptedProvider(answers_in_turn("cloud"), name="openai", models=("gpt", "big"))
    return local, cloud


@pytest.mark.parametrize(
    ("model", "provider", "expected"),
    [
        (None, None, ("llama_cpp", "big")),
        ("starter", None, ("llama_cpp", "starter")),
        ("gpt", None, ("openai", "gpt")),
        ("big", None, ("llama_cpp", "big")),
        ("openai/big", None, ("openai", "big")),
        ("big", "openai", ("openai", "big")),
        (None, "openai", ("openai", "gpt")),
        (None, "llama_cpp", ("llama_cpp", "big")),
    ],
)
async def test_resolve_when_the_model_exists_then_it_is_found(
    model: str | None, provider: str | None, expected: tuple[str, str]
) -> None:
    route = await make_gateway(*two_providers(), default="big").resolve(model, provider)
    assert (route.provider, route.model) == expected


async def test_resolve_when_the_model_is_unknown_then_the_error_names_what_exists() -> None:
    with pytest.raises(UnknownModel, match=r"'tiny'.*llama_cpp/starter.*openai/gpt"):
        await make_gateway(*two_providers()).resolve("tiny", None)


async def test_resolve_when_the_model_is_another_providers_then_it_is_unknown() -> None:
    with pytest.raises(UnknownModel, match="openai/gpt, openai/big"):
        await make_gateway(*two_providers()).resolve("starter", "openai")


async def test_resolve_when_the_provider_is_unknown_then_the_error_names_the_others() -> None:
    with pytest.raises(InvalidInput, match=r"unknown provider 'azure'.*llama_cpp, openai"):
        await make_gateway(*two_providers()).resolve(None, "azure")


async def test_resolve_when_there_is_no_model_then_the_error_says_how_to_add_one() -> None:
    empty = ScriptedProvider(answers_in_turn(""), models=(), problem="no key")
    with pytest.raises(ModelUnavailable, match=r"scripted: no key.*monkey-coder model add"):
        await make_gateway(empty).resolve(None, None)


async def test_resolve_when_the_default_does_not_exist_then_it_is_not_replaced_silently() -> None:
    with pytest.raises(ModelUnavailable, match=r"'gone'.*llama_cpp/starter"):
        await make_gateway(*two_providers(), default="gone").resolve(None, None)


async def test_models_when_a_default_is_set_then_exactly_that_one_is_marked() -> None:
    models = await make_gateway(*two_providers(), default="openai/big").models()
    assert [(m.provider, m.name) for m in models if m.is_default] == [("openai", "big")]


async def test_models_when_a_provider_fails_to_list_then_the_others_are_listed() -> None:
    local, cloud = two_providers()

    async def fail() -> list[object]:
        raise ModelUnavailable("no answer")

    cloud.models = fail  # pyright: ignore[reportAttributeAccessIssue]
    assert {m.provider for m in await make_gateway(local, cloud).models()} == {"llama_cpp"}


async def test_models_when_there_are_many_then_the_error_names_some_and_counts_the_rest() -> None:
    many = ScriptedProvider(answers_in_turn(""), models=[f"m{n}" for n in range(30)])
    with pytest.raises(UnknownModel, match="and 10 more"):
        await make_gateway(many).resolve("tiny", None)


async def test_stream_when_called_then_the_provider_gets_its_own_name_for_the_model() -> None:
    local, cloud = two_providers()
    gateway = make_gateway(local, cloud)
    route = await gateway.resolve("openai/gpt", None)
    messages = [Message(MessageRole.USER, "hello")]
    events = [
        e async for e in await gateway.start_for_task(route, messages, Sampling(seed=3), 5, "one")
    ]
    assert [type(event).__name__ for event in events] == ["TextDelta", "Finished"]
    request = cloud.requests[0]
    assert (request.model, request.max_tokens, request.owner) == ("gpt", 5, "one")
    assert local.requests == []
