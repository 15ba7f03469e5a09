"""Where plugins register, and what they are given to work with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from appliance.domain.models import ModelFile, ModelProbe
from appliance.errors import PluginError, UnknownModel
from appliance.spi.provider import Provider
from appliance.spi.sandbox import SandboxBackend


class ModelSource(Protocol):
    """The models registered on this box, read anew at each call."""

    async def list(self) -> Sequence[ModelFile]: ...

    async def check(self, alias: str) -> ModelFile:
        """Hold the file against its record and its format; do so before each load.

        Raises UnknownModel, or ModelUnavailable with what is wrong with the file.
        """
        ...

    async def probe(self, alias: str) -> ModelProbe | None:
        """What was kept of this model, whatever its key."""
        ...

    async def keep_probe(self, alias: str, probe: ModelProbe) -> None:
        """Keep it in place of the last one; a model that is gone is no error."""
        ...


class NoModels:
    """The source of models for plugins that need none; implements ModelSource."""

    async def list(self) -> Sequence[ModelFile]:
        return ()

    async def check(self, alias: str) -> ModelFile:
        raise UnknownModel(f"there is no model {alias!r} here")

    async def probe(self, alias: str) -> ModelProbe | None:
        raise UnknownModel(f"there is no model {alias!r} here")

    async def keep_probe(self, alias: str, probe: ModelProbe) -> None:
        """There is no model to keep it with."""


class PluginContext(Struct, frozen=True):
    """What a plugin may use of the box.

    `settings` is the plugin's own section of the configuration (for built-ins, a
    typed Struct's fields). `runtime_dir` is private to the service, short enough for
    a Unix socket, and emptied at start. `child_argv("plugins.x.y")` is the command
    that runs `main(argv: list[str]) -> int` of that module in a process of its own,
    from source and from the executable alike; more words may be appended.
    `child_env()` is that process's environment, `host_env()` the one for programs of the host.
    `sandbox_python()` is the folder of the sandbox's own Python (`bin/python3` in it).
    `name` is what a provider is called here, where that is not the plugin's own name.
    `sandbox_roots` holds the root file systems that were added (see appliance.domain.rootfs),
    `sandbox_prepared` what languages have ready-made (see appliance.domain.toolchain_cache);
    None: they are at their place in `data_dir`.
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
    sandbox_roots: Path | None = None
    sandbox_prepared: Path | None = None


ProviderFactory = Callable[[PluginContext], Provider]
SandboxFactory = Callable[[PluginContext], SandboxBackend]


class Registry:
    """Factories by name, filled by each plugin's `register(registry)`."""

    def __init__(self) -> None:
        self.providers: dict[str, ProviderFactory] = {}
        self.sandboxes: dict[str, SandboxFactory] = {}

    def add_provider(self, name: str, factory: ProviderFactory) -> None:
        """Offer a provider. Raises PluginError if the name is taken."""
        self._add(self.providers, "provider", name, factory)

    def add_sandbox(self, name: str, factory: SandboxFactory) -> None:
        """Offer a sandbox backend. Raises PluginError if the name is taken."""
        self._add(self.sandboxes, "sandbox", name, factory)

    @staticmethod
    def _add(known: dict[str, Any], kind: str, name: str, factory: Any) -> None:
        if name in known:
            raise PluginError(f"two plugins offer the {kind} {name!r}; remove one of them")
        known[name] = factory
