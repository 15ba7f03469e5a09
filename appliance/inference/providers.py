"""Every provider of the box, each with its own section of the settings."""

from collections.abc import Mapping
from typing import Any

from msgspec import structs

from appliance.errors import ConfigError
from appliance.settings import Settings
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
    if name == LOCAL:
        return structs.asdict(settings.models)
    sections = {field.name for field in structs.fields(settings.providers)} - {"upstreams"}
    return structs.asdict(getattr(settings.providers, name)) if name in sections else {}
