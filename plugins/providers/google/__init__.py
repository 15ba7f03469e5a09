"""Provider plugin for Google's Gemini API."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.spi.provider import Provider
    from appliance.spi.registry import PluginContext, Registry

NAME = "google"


def register(registry: "Registry") -> None:
    """Register the provider; its modules are imported when it is built."""
    registry.add_provider(NAME, _build)


def _build(context: "PluginContext") -> "Provider":
    from plugins.providers.google.api import build

    return build(context.name or NAME, context.settings)
