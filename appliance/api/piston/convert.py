"""Converts Piston's requests to programs, and the offered languages to runtimes: pure."""

import base64
import binascii
from collections.abc import Sequence

from msgspec import UNSET

from appliance.api.piston import versions
from appliance.api.piston.schemas import (
    ExecuteBody,
    PackageAnswer,
    PackageBody,
    PackageEntry,
    PistonFile,
    RuntimeAnswer,
)
from appliance.domain.execution import Limits, SandboxFile
from appliance.domain.sandbox_limits import LIMIT_BY_FIELD
from appliance.errors import InvalidInput, NotFound
from appliance.services.sandbox import programs
from appliance.services.sandbox.programs import Program
from appliance.services.sandbox.service import Language, SandboxCapabilities

# Piston's names of languages that have another name here.
_PISTON_NAMES = {"node": "javascript", "cpp": "c++"}
_EXTRA_ALIASES = {"python": {"py3"}, "bash": {"sh"}}
_RUNTIMES = {"node": "node"}
_MS = 1000


def runtime_answers(capabilities: SandboxCapabilities) -> list[RuntimeAnswer]:
    return [_runtime(language) for language in capabilities.languages]


def package_entries(capabilities: SandboxCapabilities) -> list[PackageEntry]:
    """The languages in the form of installed packages."""
    return [
        PackageEntry(piston_name(language.name), language.version, installed=True)
        for language in capabilities.languages
    ]


def installed_package(body: PackageBody, capabilities: SandboxCapabilities) -> PackageAnswer:
    """The requested package. Raises NotFound if the language is not available."""
    language = _find_language(body.language, body.version, capabilities.languages)
    if language is None:
        raise NotFound(
            f"{_package_name(body.language, body.version)} is not available, and "
            f"can't be installed over HTTP; available: {_list_languages(capabilities.languages)}"
        )
    return PackageAnswer(piston_name(language.name), language.version)


def has_runtime(body: ExecuteBody, capabilities: SandboxCapabilities) -> bool:
    """Whether the requested runtime is available. Raises InvalidInput for a malformed version."""
    return _find_language(body.language, body.version, capabilities.languages) is not None


def convert_program(body: ExecuteBody, capabilities: SandboxCapabilities) -> Program:
    """The program of a request.

    Raises InvalidInput: unknown runtime, limit out of range, content that doesn't decode.
    """
    language = _require_language(body, capabilities.languages)
    return Program(
        language=language.name,
        files=tuple(_file(at, file, language) for at, file in enumerate(body.files)),
        args=tuple(body.args or ()),
        stdin=(body.stdin or "").encode(),
        limits=_run_limits(body, capabilities.limits, compiled=language.compiled),
        build_limits=_build_limits(body, capabilities.limits) if language.compiled else {},
    )


def piston_name(language: str) -> str:
    """Piston's name of a language."""
    return _PISTON_NAMES.get(language, language)


def _runtime(language: Language) -> RuntimeAnswer:
    name = piston_name(language.name)
    aliases = sorted(_all_names(language) - {name})
    return RuntimeAnswer(name, language.version, aliases, _RUNTIMES.get(language.name, UNSET))


def _all_names(language: Language) -> set[str]:
    """All names by which clients can request the language."""
    extra = _EXTRA_ALIASES.get(language.name, set[str]())
    return {language.name, piston_name(language.name), *language.aliases} | extra


def _require_language(body: ExecuteBody, languages: Sequence[Language]) -> Language:
    language = _find_language(body.language, body.version, languages)
    if language is None:
        raise InvalidInput(
            f"{_package_name(body.language, body.version)} is an unknown runtime; "
            f"available: {_list_languages(languages)}"
        )
    return language


def _find_language(name: str, version: str, languages: Sequence[Language]) -> Language | None:
    """The language of that name and version; one with that alias comes second."""
    requested = name.strip().lower()
    candidates = [each for each in languages if requested in _all_names(each)]
    candidates.sort(key=lambda each: requested != each.name)
    return next((each for each in candidates if versions.matches(version, each.version)), None)


def _package_name(language: str, version: str) -> str:
    return f"{language[:40]}-{version[:40]}"


def _list_languages(languages: Sequence[Language]) -> str:
    return ", ".join(f"{piston_name(each.name)} {each.version}" for each in languages)


def _file(at: int, file: PistonFile, language: Language) -> SandboxFile:
    content = _content(f"files[{at}].content", file)
    return SandboxFile(file.name or _name(at, content, language), content)


def _name(at: int, content: bytes, language: Language) -> str:
    if at > 0:
        return f"file{at}.code"
    return programs.default_file_name(language.name, content)


def _content(field: str, file: PistonFile) -> bytes:
    try:
        match file.encoding:
            case "base64":
                # Piston accepts line breaks in base64.
                return base64.b64decode("".join(file.content.split()), validate=True)
            case "hex":
                return bytes.fromhex(file.content)
            case _:
                return file.content.encode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput.at(field, f"is not valid {file.encoding}: {error}") from None


def _run_limits(body: ExecuteBody, allowed: Limits, *, compiled: bool) -> dict[str, float]:
    """Both stages share one sandbox: the maximum of their memory."""
    memory = _read_limit("run_memory_limit", body, allowed, "memory_bytes")
    if compiled:
        building = _read_limit("compile_memory_limit", body, allowed, "memory_bytes")
        memory = max(memory, building)
    return {
        "wall_s": _read_limit("run_timeout", body, allowed, "wall_s", _MS),
        "cpu_s": _read_limit("run_cpu_time", body, allowed, "cpu_s", _MS),
        "memory_bytes": int(memory),
    }


def _build_limits(body: ExecuteBody, allowed: Limits) -> dict[str, float]:
    return {
        "wall_s": _read_limit("compile_timeout", body, allowed, "wall_s", _MS),
        "cpu_s": _read_limit("compile_cpu_time", body, allowed, "cpu_s", _MS),
    }


def _read_limit(field: str, body: ExecuteBody, allowed: Limits, name: str, units: int = 1) -> float:
    """The limit `name` from the client's `field`, which is in 1/`units`; else the maximum."""
    maximum = getattr(allowed, name)
    value: float | None = getattr(body, field)
    if value is None or value <= 0:
        return maximum
    LIMIT_BY_FIELD[name].check(field, value, maximum, units)
    return value / units
