"""Response bodies of providers, models and capabilities."""

from msgspec import Struct


class ProviderAnswer(Struct):
    name: str
    type: str
    status: str
    available: bool
    problem: str | None
    models: list[str]


class ProviderListAnswer(Struct):
    providers: list[ProviderAnswer]
    count: int
    status: str


class ModelAnswer(Struct):
    """`context_length` is in tokens; `tokens_per_second` is the last measured speed."""

    id: str
    name: str
    provider: str
    status: str
    default: bool
    context_length: int | None
    max_parallel: int
    tokens_per_second: float | None
    description: str
    problem: str | None


class ModelListAnswer(Struct):
    models: dict[str, list[ModelAnswer]]
    count: int
    default: str | None
    provider_filter: str | None


class PersonaAnswer(Struct):
    name: str
    slash_commands: list[str]
    default_task_type: str


class SandboxAnswer(Struct):
    available: bool
    backend: str
    isolation: str | None
    layers: list[str]
    degraded: list[str]
    languages: dict[str, str]
    problem: str | None
    remedy: str | None
    limits: dict[str, float]


class CapabilitiesAnswer(Struct):
    version: str
    personas: list[PersonaAnswer]
    task_types: list[str]
    collapse_strategies: list[str]
    verification_levels: list[str]
    sandbox: SandboxAnswer
    providers: list[ProviderAnswer]
    models: list[ModelAnswer]
    limits: dict[str, float]
