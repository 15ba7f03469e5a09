"""Which providers are built, with which settings; and the list of models that they see."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from msgspec import structs

from appliance import processes
from appliance.config.settings import (
    PluginSettings,
    ProviderSettings,
    ProvidersSettings,
    Settings,
    UpstreamSettings,
)
from appliance.errors import ConfigError, PluginError
from appliance.inference import provider_factory
from appliance.models.cached_registry import CachedModelRegistry
from appliance.models.registry import ModelRegistry
from appliance.spi.registry import NoModels, PluginContext, Registry
from appliance.store.sqlite.database import Database
from tests.support.gateway_parts import Scripted
from tests.support.tiny_gguf import write_tiny_gguf


def context(folder: Path) -> PluginContext:
    return PluginContext(
        data_dir=folder,
        runtime_dir=folder,
        settings={},
        models=NoModels(),
        child_argv=processes.child_argv,
        host_env=processes.host_env,
        child_env=processes.child_env,
        sandbox_python=lambda: folder,
    )


def registry(*names: str) -> tuple[Registry, dict[str, dict[str, Any]]]:
    """Providers of these names, and the settings that each gets."""
    received: dict[str, dict[str, Any]] = {}
    plugins = Registry()

    def make(context: PluginContext) -> Scripted:
        received[context.name] = dict(context.settings)
        return Scripted("x", name=context.name)

    for name in names:
        plugins.add_provider(name, make)
    return plugins, received


def test_build_when_plugins_have_sections_then_each_gets_its_own(tmp_path: Path) -> None:
    plugins, received = registry("llama_cpp", "openai", "foreign")
    near = UpstreamSettings(kind="openai", base_url="http://127.0.0.1:1/v1")
    settings = Settings(
        providers=ProvidersSettings(openai=ProviderSettings(api_key="k"), upstreams={"vllm": near})
    )
    built, problems = provider_factory.build_providers(plugins, context(tmp_path), settings)
    assert [each.name for each in built.values()] == ["llama_cpp", "openai", "foreign", "vllm"]
    assert problems == []
    assert received["llama_cpp"] == structs.asdict(settings.models)
    assert received["openai"]["api_key"] == "k"
    assert received["vllm"]["base_url"] == "http://127.0.0.1:1/v1"
    assert received["foreign"] == {}


def test_build_when_an_external_plugin_has_settings_then_it_gets_them(tmp_path: Path) -> None:
    plugins, received = registry("mine", "other")
    sections: dict[str, dict[str, Any]] = {"mine": {"api_key": "k", "depth": {"most": 3}}}
    provider_factory.build_providers(
        plugins, context(tmp_path), Settings(plugins=PluginSettings(settings=sections))
    )
    assert received == {"mine": sections["mine"], "other": {}}


@pytest.mark.parametrize(
    ("name", "section"), [("llama_cpp", r"\[models\]"), ("openai", r"\[providers\.openai\]")]
)
def test_build_when_a_built_in_has_a_plugins_settings_then_the_error_names_the_right_section(
    tmp_path: Path, name: str, section: str
) -> None:
    plugins, _ = registry(name)
    settings = Settings(plugins=PluginSettings(settings={name: {"api_key": "k"}}))
    with pytest.raises(ConfigError, match=section):
        provider_factory.build_providers(plugins, context(tmp_path), settings)


class _Silent:
    """Has the methods of a provider, and fails at each."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"no {name}")


def _raise(error: BaseException) -> Any:
    raise error


# From Python 3.12 on, isinstance() looks for the methods of a Protocol without calling __getattr__.
_SILENT = "RuntimeError: no " if sys.version_info < (3, 12) else "returned _Silent, not a Provider"
FAILING: dict[str, Callable[[PluginContext], Any]] = {
    "RuntimeError: no licence": lambda _context: _raise(RuntimeError("no licence")),
    "SystemExit: 3": lambda _context: _raise(SystemExit(3)),
    "no GPU": lambda _context: _raise(PluginError("no GPU")),
    "returned NoneType, not a Provider": lambda _context: None,
    _SILENT: lambda _context: _Silent(),
    "TypeError": cast("Any", lambda: None),
}


@pytest.mark.parametrize("reason", list(FAILING))
def test_build_when_a_factory_fails_then_reported_by_name_and_the_rest_is_built(
    tmp_path: Path, reason: str
) -> None:
    """F70"""
    factory = FAILING[reason]
    plugins, _ = registry("works")
    plugins.add_provider("broken", factory)
    plugins.add_sandbox("cell", factory)
    built, [problem] = provider_factory.build_providers(plugins, context(tmp_path), Settings())
    sandboxes, [other] = plugins.build_sandboxes({"cell": context(tmp_path)})
    assert (list(built), list(sandboxes)) == (["works"], [])
    assert (problem.name, other.name) == ("broken", "cell")
    assert reason in problem.reason
    assert reason.replace("Provider", "SandboxBackend") in other.reason


def test_build_when_the_settings_are_wrong_then_the_config_error_is_raised(tmp_path: Path) -> None:
    plugins, _ = registry()
    plugins.add_provider("openai", lambda _: _raise(ConfigError("ca_file: no such file")))
    with pytest.raises(ConfigError, match="ca_file"):
        provider_factory.build_providers(plugins, context(tmp_path), Settings())


@pytest.mark.parametrize(("name", "kind"), [("openai", "openai"), ("mine", "google")])
def test_build_when_an_upstream_is_invalid_then_config_error(
    name: str, kind: Any, tmp_path: Path
) -> None:
    plugins, _ = registry("openai")
    settings = Settings(providers=ProvidersSettings(upstreams={name: UpstreamSettings(kind=kind)}))
    with pytest.raises(ConfigError, match=rf"\[providers.upstreams.{name}\]"):
        provider_factory.build_providers(plugins, context(tmp_path), settings)


async def test_models_when_another_process_adds_one_then_seen_at_the_next_call(
    tmp_path: Path,
) -> None:
    file = tmp_path / "tiny.gguf"
    write_tiny_gguf(file)
    db = await Database.open(tmp_path / "monkey.db")
    other = await Database.open(tmp_path / "monkey.db", exclusive=False)
    reads = [0]

    class Counting(ModelRegistry):
        async def list(self) -> Any:
            reads[0] += 1
            return await super().list()

    listed = CachedModelRegistry(Counting(db, tmp_path), db, lambda: 0.5)
    assert list(await listed.list()) == []
    assert await listed.default() is None
    assert reads[0] == 1
    added = await ModelRegistry(other, tmp_path).add(str(file), "tiny", in_place=True)
    assert await listed.default() == "tiny"
    assert await listed.sha256("tiny") == added.sha256
    assert await listed.sha256("gone") == ""
    assert reads[0] == 2
    await other.close()
    await db.close()
