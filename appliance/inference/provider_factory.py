"""Every provider of the box, each with its own section of the settings."""

from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

from appliance.config.settings import Settings
from appliance.errors import ConfigError
from appliance.spi.provider import Provider
from appliance.spi.registry import PluginContext, Registry

LOCAL = "llama_cpp"


def build(registry: Registry, context: PluginContext, settings: Settings) -> dict[str, Provider]:
    """The providers of the plugins, and the upstreams that the administrator named.

    Raises ConfigError for an upstream whose name is taken or whose kind is not there.
    """
    built: dict[str, Provider] = {}
    for name, factory in registry.providers.items():
        own = structs.replace(context, name=name, settings=_section(name, settings))
        built[name] = factory(own)
    for name, upstream in settings.providers.upstreams.items():
        if name in built:
            raise ConfigError(f"[providers.upstreams.{name}]: there is a provider of this name")
        factory = registry.providers.get(upstream.kind)
        if factory is None:
            raise ConfigError(
                f"[providers.upstreams.{name}]: the plugin {upstream.kind!r} is not loaded; "
                "`monkey-coder doctor` says why"
            )
        own = structs.replace(context, name=name, settings=structs.asdict(upstream))
        built[name] = factory(own)
    return built


def _section(name: str, settings: Settings) -> Mapping[str, Any]:
    """Raises ConfigError where a built-in's settings stand in the place of plugins of the box."""
    own = settings.plugins.settings.get(name)
    built_in = _built_in(name, settings)
    if built_in is None:
        return own or {}
    if own is not None:
        section = "models" if name == LOCAL else f"providers.{name}"
        raise ConfigError(f"[plugins.settings.{name}]: {name} is built in; write [{section}]")
    return structs.asdict(built_in)


def _built_in(name: str, settings: Settings) -> Struct | None:
    if name == LOCAL:
        return settings.models
    sections = {field.name for field in structs.fields(settings.providers)} - {"upstreams"}
    return getattr(settings.providers, name) if name in sections else None
