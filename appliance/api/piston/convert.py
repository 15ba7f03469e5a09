"""Piston's requests to programs, and what the box offers in its words: pure functions."""

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
from appliance.errors import InvalidInput, NotFound
from appliance.sandbox.languages.entrypoints import main_file
from appliance.services.sandbox import programs
from appliance.services.sandbox.programs import Program
from appliance.services.sandbox.service import Language, Offer

# What its clients call these languages, by their own name here.
_NAMES = {"node": "javascript", "cpp": "c++"}
_ALSO = {"python": {"py3"}, "bash": {"sh"}}
_RUNTIMES = {"node": "node"}
_MS = 1000


def runtimes(offer: Offer) -> list[RuntimeAnswer]:
    return [_runtime(language) for language in offer.languages]


def packages(offer: Offer) -> list[PackageEntry]:
    """What can be run, as if it had been installed by Piston's own means."""
    return [
        PackageEntry(shown_name(language.name), language.version, installed=True)
        for language in offer.languages
    ]


def package(body: PackageBody, offer: Offer) -> PackageAnswer:
    """The package that is asked for, if it is there. Raises NotFound."""
    language = _found(body.language, body.version, offer.languages)
    if language is None:
        raise NotFound(
            f"{_named(body.language, body.version)} is not on this box; its administrator sets "
            f"up what can be run, here {_listed(offer.languages)}"
        )
    return PackageAnswer(shown_name(language.name), language.version)


def has(body: ExecuteBody, offer: Offer) -> bool:
    """Whether the runtime that is asked for is there. Raises InvalidInput for an odd version."""
    return _found(body.language, body.version, offer.languages) is not None


def program(body: ExecuteBody, offer: Offer) -> Program:
    """Raises InvalidInput: an unknown runtime, a limit above the box's, a wrong encoding."""
    language = _language(body, offer.languages)
    return Program(
        language=language.name,
        files=tuple(_file(at, file, language) for at, file in enumerate(body.files)),
        args=tuple(body.args or ()),
        stdin=(body.stdin or "").encode(),
        limits=_limits(body, offer.limits, compiled=language.compiled),
    )


def shown_name(language: str) -> str:
    """What Piston's clients call a language of this box."""
    return _NAMES.get(language, language)


def _runtime(language: Language) -> RuntimeAnswer:
    name = shown_name(language.name)
    aliases = sorted(_words(language) - {name})
    return RuntimeAnswer(name, language.version, aliases, _RUNTIMES.get(language.name, UNSET))


def _words(language: Language) -> set[str]:
    """Every name that means this language."""
    also = _ALSO.get(language.name, set[str]())
    return {language.name, shown_name(language.name), *language.aliases} | also


def _language(body: ExecuteBody, known: Sequence[Language]) -> Language:
    language = _found(body.language, body.version, known)
    if language is None:
        raise InvalidInput(
            f"{_named(body.language, body.version)} is no runtime of this box; "
            f"it has {_listed(known)}"
        )
    return language


def _found(name: str, version: str, known: Sequence[Language]) -> Language | None:
    """The language of that name, else one that is also called so, in that version."""
    wanted = name.strip().lower()
    called = [each for each in known if wanted in _words(each)]
    called.sort(key=lambda each: wanted != each.name)
    return next((each for each in called if versions.matches(version, each.version)), None)


def _named(language: str, version: str) -> str:
    return f"{language[:40]}-{version[:40]}"


def _listed(known: Sequence[Language]) -> str:
    return ", ".join(f"{shown_name(each.name)} {each.version}" for each in known)


def _file(at: int, file: PistonFile, language: Language) -> SandboxFile:
    content = _content(f"files[{at}].content", file)
    return SandboxFile(file.name or _name(at, content, language), content)


def _name(at: int, content: bytes, language: Language) -> str:
    if at > 0:
        return f"file{at}.code"
    return main_file(language.name, language.main_file, content)


def _content(field: str, file: PistonFile) -> bytes:
    try:
        match file.encoding:
            case "base64":
                # Programs that encode break the lines, which Piston does not mind.
                return base64.b64decode("".join(file.content.split()), validate=True)
            case "hex":
                return bytes.fromhex(file.content)
            case _:
                return file.content.encode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput.at(field, f"is no {file.encoding}: {error}") from None


def _limits(body: ExecuteBody, allowed: Limits, *, compiled: bool) -> dict[str, float]:
    """Both stages share one sandbox: their times are added, of their memory the larger counts."""
    wall = _bounded("run_timeout", body, allowed, "wall_s", _MS)
    cpu = _bounded("run_cpu_time", body, allowed, "cpu_s", _MS)
    memory = _bounded("run_memory_limit", body, allowed, "memory_bytes")
    if compiled:
        wall += _bounded("compile_timeout", body, allowed, "wall_s", _MS)
        cpu += _bounded("compile_cpu_time", body, allowed, "cpu_s", _MS)
        building = _bounded("compile_memory_limit", body, allowed, "memory_bytes")
        memory = max(memory, building)
    return {
        "wall_s": min(wall, allowed.wall_s),
        "cpu_s": min(cpu, allowed.cpu_s),
        "memory_bytes": int(memory),
    }


def _bounded(field: str, body: ExecuteBody, allowed: Limits, name: str, units: int = 1) -> float:
    """What the client gives in `units` of the limit `name`, or all that is allowed."""
    most, least = getattr(allowed, name), programs.least(name)
    given: float | None = getattr(body, field)
    if given is None or given <= 0:
        return most
    if not least * units <= given <= most * units:
        raise InvalidInput.at(
            field,
            f"{given:.10g} is not from {least * units:.10g} to the {most * units:.10g} "
            "that this box allows",
        )
    return given / units
