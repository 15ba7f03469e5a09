"""Local models: llama.cpp with continuous batching, one engine process per model."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.spi.provider import Provider
    from appliance.spi.registry import PluginContext, Registry

NAME = "llama_cpp"


def register(registry: "Registry") -> None:
    """Offer the provider; nothing heavy is imported before it is built."""
    registry.add_provider(NAME, _build)


def _build(context: "PluginContext") -> "Provider":
    from plugins.providers.llama_cpp.provider import LlamaCppProvider

    return LlamaCppProvider(NAME, context)
