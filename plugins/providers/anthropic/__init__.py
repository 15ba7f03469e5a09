"""Anthropic's API, and addresses that speak it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.spi.provider import Provider
    from appliance.spi.registry import PluginContext, Registry

NAME = "anthropic"


def register(registry: "Registry") -> None:
    """Offer the provider; nothing heavy is imported before it is built."""
    registry.add_provider(NAME, _build)


def _build(context: "PluginContext") -> "Provider":
    from plugins.providers.anthropic.dialect import build

    return build(context.name or NAME, context.settings)
