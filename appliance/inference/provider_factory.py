"""Builds all providers, each with its own section of the settings."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

from appliance.config.settings import Settings
from appliance.errors import ConfigError
from appliance.spi.provider import Provider
from appliance.spi.registry import PluginContext, PluginProblem, Registry

LOCAL = "llama_cpp"


def build_providers(
    registry: Registry, context: PluginContext, settings: Settings
) -> tuple[dict[str, Provider], list[PluginProblem]]:
    """The providers of all plugins, and those of [providers.upstreams], by name; and the failures.

    Raises ConfigError for an upstream whose name is in use or whose plugin is not loaded.
    """
    contexts = {
        name: (name, structs.replace(context, name=name, settings=_plugin_settings(name, settings)))
        for name in registry.providers
    }
    for name, upstream in settings.providers.upstreams.items():
        if name in contexts:
            raise ConfigError(
                f"[providers.upstreams.{name}]: a provider of this name exists; choose another name"
            )
        if upstream.kind not in registry.providers:
            raise ConfigError(
                f"[providers.upstreams.{name}]: the plugin {upstream.kind!r} is not loaded; "
                "`monkey-coder doctor` says why"
            )
        section = structs.asdict(upstream)
        contexts[name] = upstream.kind, structs.replace(context, name=name, settings=section)
    return registry.build_providers(contexts)


def _plugin_settings(name: str, settings: Settings) -> Mapping[str, Any]:
    """Raises ConfigError if [plugins.settings] has a section for a built-in provider."""
    section = settings.plugins.settings.get(name)
    built_in = _built_in_settings(name, settings)
    if built_in is None:
        return section or {}
    if section is not None:
        right = "models" if name == LOCAL else f"providers.{name}"
        raise ConfigError(f"[plugins.settings.{name}]: {name} is built in; use [{right}] instead")
    return structs.asdict(built_in)


def _built_in_settings(name: str, settings: Settings) -> Struct | None:
    if name == LOCAL:
        return settings.models
    sections = {field.name for field in structs.fields(settings.providers)} - {"upstreams"}
    return getattr(settings.providers, name) if name in sections else None
