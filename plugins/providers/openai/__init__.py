"""Any address that speaks OpenAI's API: OpenAI itself, vLLM, llama-server, Ollama, another box."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.spi.provider import Provider
    from appliance.spi.registry import PluginContext, Registry

NAME = "openai"


def register(registry: "Registry") -> None:
    """Offer the provider; nothing heavy is imported before it is built."""
    registry.add_provider(NAME, _build)


def _build(context: "PluginContext") -> "Provider":
    from plugins.providers.openai.dialect import build

    return build(context.name or NAME, context.settings)
