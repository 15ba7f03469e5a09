"""The registry of plugins, and the context that they get."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import structlog
from msgspec import Struct

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import ConfigError, PluginError, UnknownModel
from appliance.spi.provider import Provider
from appliance.spi.sandbox import SandboxBackend

T = TypeVar("T")

_log = structlog.get_logger()


class PluginProblem(Struct, frozen=True):
    """A plugin that could not be registered or built, and the reason."""

    name: str
    reason: str

    @classmethod
    def log(cls, name: str, error: BaseException) -> "PluginProblem":
        """The problem of a plugin that raised `error`; logged, with a stack if unexpected."""
        expected = isinstance(error, PluginError)
        reason = error.message if expected else f"{type(error).__name__}: {error}"
        _log.warning(
            "plugin_broken", plugin=name, reason=reason, exc_info=None if expected else error
        )
        return cls(name, reason)


class ModelSource(Protocol):
    """The registered local models, read again at each call."""

    async def list(self) -> Sequence[ModelFile]: ...

    async def check(self, alias: str) -> ModelFile:
        """Check the file against its record and its format; to be done before each load.

        Raises UnknownModel, or ModelUnavailable with what is wrong with the file.
        """
        ...

    async def probe(self, alias: str) -> ModelProbe | None:
        """The stored probe of this model, whatever its key."""
        ...

    async def store_probe(self, alias: str, probe: ModelProbe) -> None:
        """Replace the stored probe. Does nothing if the model no longer exists."""
        ...


class NoModels:
    """A ModelSource without models."""

    async def list(self) -> Sequence[ModelFile]:
        return ()

    async def check(self, alias: str) -> ModelFile:
        raise UnknownModel(f"model {alias!r} does not exist")

    async def probe(self, alias: str) -> ModelProbe | None:
        raise UnknownModel(f"model {alias!r} does not exist")

    async def store_probe(self, alias: str, probe: ModelProbe) -> None:
        """Does nothing: the model does not exist."""


class PluginContext(Struct, frozen=True):
    """What a plugin gets from the server.

    - `settings`: the plugin's own section of the configuration; for built-ins, the fields of
      its settings Struct.
    - `runtime_dir`: private to the server, short enough for a Unix socket, empty at start.
    - `child_argv("plugins.x.y")`: the command that runs `main(argv: list[str]) -> int` of that
      module in a process of its own, from source and from the executable alike; arguments may
      be appended. `child_env()` is its environment.
    - `host_env()`: the environment for the host's programs.
    - `sandbox_python()`: the folder of the sandbox's own Python, with `bin/python3`.
    - `name`: the name of the provider, if it is not the plugin's name.
    - `rootfs_dir`: the folder of root file systems (see appliance.domain.rootfs).
    - `toolchain_cache_dir`: the folder of cached toolchain artifacts (see
      appliance.domain.toolchain_cache). None for either: the default folder in `data_dir`.
    """

    data_dir: Path
    runtime_dir: Path
    settings: Mapping[str, Any]
    models: ModelSource
    child_argv: Callable[[str], list[str]]
    host_env: Callable[[], dict[str, str]]
    child_env: Callable[[], dict[str, str]]
    sandbox_python: Callable[[], Path]
    name: str = ""
    rootfs_dir: Path | None = None
    toolchain_cache_dir: Path | None = None


ProviderFactory = Callable[[PluginContext], Provider]
SandboxFactory = Callable[[PluginContext], SandboxBackend]


class Registry:
    """Factories by name, filled by each plugin's `register(registry)`."""

    def __init__(self) -> None:
        self.providers: dict[str, ProviderFactory] = {}
        self.sandboxes: dict[str, SandboxFactory] = {}

    def add_provider(self, name: str, factory: ProviderFactory) -> None:
        """Register a provider. Raises PluginError if the name is taken."""
        self._add(self.providers, "provider", name, factory)

    def add_sandbox(self, name: str, factory: SandboxFactory) -> None:
        """Register a sandbox backend. Raises PluginError if the name is taken."""
        self._add(self.sandboxes, "sandbox", name, factory)

    def build_providers(
        self, contexts: Mapping[str, tuple[str, PluginContext]]
    ) -> tuple[dict[str, Provider], list[PluginProblem]]:
        """Providers by name; `contexts` gives the name of the factory and the context of each.

        A factory or a status() that fails is reported, never fatal. Raises ConfigError only:
        then the settings are wrong, not the plugin.
        """
        return _build_all(self.providers, contexts, Provider, lambda each: each.status())

    def build_sandboxes(
        self, contexts: Mapping[str, PluginContext]
    ) -> tuple[dict[str, SandboxBackend], list[PluginProblem]]:
        """Sandbox backends by name; a factory that fails is reported, as in build_providers."""
        named = {name: (name, context) for name, context in contexts.items()}
        return _build_all(self.sandboxes, named, SandboxBackend, lambda each: each.name)

    @staticmethod
    def _add(factories: dict[str, Any], kind: str, name: str, factory: Any) -> None:
        if name in factories:
            raise PluginError(f"two plugins register the {kind} {name!r}; remove one of them")
        factories[name] = factory


def _build_all(
    factories: Mapping[str, Callable[[PluginContext], T]],
    contexts: Mapping[str, tuple[str, PluginContext]],
    protocol: Any,
    check: Callable[[T], object],
) -> tuple[dict[str, T], list[PluginProblem]]:
    built, problems = dict[str, T](), list[PluginProblem]()
    for name, (factory, context) in contexts.items():
        try:
            made = factories[factory](context)
            if not isinstance(made, protocol):
                raise PluginError(
                    f"its factory returned {type(made).__name__}, not a {protocol.__name__}"
                )
            check(made)
        except ConfigError:
            raise
        # A plugin is third-party code and may raise anything.
        except (Exception, SystemExit) as error:
            problems.append(PluginProblem.log(name, error))
        else:
            built[name] = made
    return built, problems
