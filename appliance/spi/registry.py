"""Where plugins register, and what they are given to work with."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct

from appliance.domain.models import ModelFile
from appliance.errors import PluginError
from appliance.spi.provider import Provider
from appliance.spi.sandbox import SandboxBackend


class ModelSource(Protocol):
    """The models registered on this box, read anew at each call."""

    async def list(self) -> Sequence[ModelFile]: ...


class PluginContext(Struct, frozen=True):
    """What a plugin may use of the box.

    `settings` is the plugin's own section of the configuration (for built-ins, a
    typed Struct's fields). `runtime_dir` is private to the service, short enough for
    a Unix socket, and emptied at start. `child_argv("plugins.x.y")` is the command
    that runs `main(argv: list[str]) -> int` of that module in a process of its own,
    from source and from the executable alike; more words may be appended.
    `child_env()` is that process's environment, `host_env()` the one for programs of the host.
    `sandbox_python()` is the folder of the sandbox's own Python (`bin/python3` in it).
    """

    data_dir: Path
    runtime_dir: Path
    settings: Mapping[str, Any]
    models: ModelSource
    child_argv: Callable[[str], list[str]]
    host_env: Callable[[], dict[str, str]]
    child_env: Callable[[], dict[str, str]]
    sandbox_python: Callable[[], Path]


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
