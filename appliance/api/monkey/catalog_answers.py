"""Converts providers, models and capabilities to answers: pure functions."""

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from appliance.api.monkey import task_names
from appliance.api.monkey.catalog_schemas import (
    CapabilitiesAnswer,
    ModelAnswer,
    ModelListAnswer,
    PersonaAnswer,
    ProviderAnswer,
    ProviderListAnswer,
    SandboxAnswer,
)
from appliance.domain.execution import BackendStatus, Limits
from appliance.domain.models import ModelInfo, ProviderStatus
from appliance.domain.tasks import Persona, VerificationLevel
from appliance.services.catalog import Capabilities


def provider_list(
    providers: Sequence[ProviderStatus], models: Sequence[ModelInfo]
) -> ProviderListAnswer:
    answers = [_provider(each, models) for each in providers]
    active = any(each.available for each in providers)
    return ProviderListAnswer(answers, len(answers), "active" if active else "unavailable")


def model_list(models: Sequence[ModelInfo], provider: str | None) -> ModelListAnswer:
    by_provider: dict[str, list[ModelAnswer]] = defaultdict(list)
    for model in models:
        by_provider[model.provider].append(_model(model))
    default = next((model.name for model in models if model.is_default), None)
    return ModelListAnswer(dict(by_provider), len(models), default, provider)


def capabilities_answer(capabilities: Capabilities) -> CapabilitiesAnswer:
    return CapabilitiesAnswer(
        version=capabilities.version,
        personas=[_persona(each) for each in capabilities.personas],
        task_types=list(capabilities.task_types),
        collapse_strategies=list(capabilities.strategies),
        verification_levels=list(VerificationLevel),
        sandbox=_sandbox(capabilities.sandbox, capabilities.sandbox_limits),
        providers=[_provider(each, capabilities.models) for each in capabilities.providers],
        models=[_model(each) for each in capabilities.models],
        limits=msgspec.to_builtins(capabilities.limits),
    )


def _provider(status: ProviderStatus, models: Sequence[ModelInfo]) -> ProviderAnswer:
    return ProviderAnswer(
        name=status.name,
        type="local" if status.local else "cloud",
        status="active" if status.available else "unavailable",
        available=status.available,
        problem=status.problem or None,
        models=[model.name for model in models if model.provider == status.name],
    )


def _model(model: ModelInfo) -> ModelAnswer:
    return ModelAnswer(
        id=f"{model.provider}/{model.name}",
        name=model.name,
        provider=model.provider,
        status=model.state,
        default=model.is_default,
        context_length=model.context_tokens,
        max_parallel=model.max_parallel,
        tokens_per_second=model.decode_tokens_per_second,
        description=model.description,
        problem=model.problem or None,
    )


def _persona(persona: Persona) -> PersonaAnswer:
    return PersonaAnswer(
        name=persona,
        slash_commands=list(task_names.SLASH_COMMANDS.get(persona, ())),
        default_task_type=task_names.default_task_type(persona),
    )


def _sandbox(status: BackendStatus, limits: Limits) -> SandboxAnswer:
    isolation = status.isolation
    return SandboxAnswer(
        available=status.available,
        backend=status.name,
        isolation=isolation.level if isolation else None,
        layers=list(isolation.layers) if isolation else [],
        degraded=list(isolation.degraded) if isolation else [],
        languages=status.languages,
        problem=status.problem or None,
        remedy=status.remedy or None,
        limits=msgspec.to_builtins(limits),
    )
