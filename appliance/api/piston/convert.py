"""Piston's requests to programs, and their results to its answers: pure functions."""

import base64
import binascii
import signal
from collections.abc import Sequence

from appliance.api.piston import versions
from appliance.api.piston.schemas import (
    ExecuteAnswer,
    ExecuteBody,
    PistonFile,
    RuntimeAnswer,
    StageAnswer,
)
from appliance.domain.execution import EndReason, Limits, RunResult, SandboxFile
from appliance.errors import InvalidInput
from appliance.services.sandbox import Language, Offer
from appliance.services.sandbox_programs import BuildReport, Program, ProgramResult

# What its clients call these languages.
_NAMES = {"node": "javascript", "cpp": "c++"}
_MS = 1000

_STATUS = {
    EndReason.WALL_TIME: ("TO", "the time limit was reached"),
    EndReason.CPU_TIME: ("TO", "the limit of processor time was reached"),
    EndReason.MEMORY: ("RE", "the memory limit was reached"),
    EndReason.OUTPUT: ("OL", "the output is longer than the limit"),
    EndReason.CANCELLED: ("XX", "the run was cancelled"),
}


def runtimes(offer: Offer) -> list[RuntimeAnswer]:
    return [_runtime(language) for language in offer.languages]


def program(body: ExecuteBody, offer: Offer) -> Program:
    """Raises InvalidInput: an unknown runtime, a limit above the box's, a wrong encoding."""
    language = _language(body, offer.languages)
    return Program(
        language=language.name,
        files=tuple(_file(at, file, language) for at, file in enumerate(body.files)),
        args=tuple(body.args),
        stdin=body.stdin.encode(),
        limits=_limits(body, offer.limits, compiled=language.compiled),
    )


def answer(result: ProgramResult) -> ExecuteAnswer:
    """A compiler that failed is shown in both places, as Piston does."""
    name = result.language or ""
    shown, version = _NAMES.get(name, name), result.version or ""
    build = result.build
    if build is None:
        return ExecuteAnswer(shown, version, _run_stage(result.run))
    compiled = _compile_stage(build)
    run = _run_stage(result.run) if build.ok else compiled
    return ExecuteAnswer(shown, version, run, compiled)


def _runtime(language: Language) -> RuntimeAnswer:
    name = _NAMES.get(language.name, language.name)
    aliases = sorted({language.name, *language.aliases} - {name})
    return RuntimeAnswer(name, language.version, aliases)


def _language(body: ExecuteBody, known: Sequence[Language]) -> Language:
    wanted = body.language.strip().lower()
    for language in known:
        if wanted in (language.name, *language.aliases) and versions.matches(
            body.version, language.version
        ):
            return language
    raise InvalidInput(f"{body.language[:40]}-{body.version[:40]} is no runtime of this box")


def _file(at: int, file: PistonFile, language: Language) -> SandboxFile:
    default = language.main_file if at == 0 else f"file{at}.code"
    return SandboxFile(file.name or default, _content(f"files[{at}].content", file))


def _content(field: str, file: PistonFile) -> bytes:
    try:
        match file.encoding:
            case "base64":
                return base64.b64decode(file.content, validate=True)
            case "hex":
                return bytes.fromhex(file.content)
            case _:
                return file.content.encode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput.at(field, f"is no {file.encoding}: {error}") from None


def _limits(body: ExecuteBody, allowed: Limits, *, compiled: bool) -> dict[str, float]:
    """Both stages share one sandbox: their times are added, of their memory the larger counts."""
    wall = _bounded("run_timeout", body.run_timeout, allowed.wall_s * _MS)
    cpu = _bounded("run_cpu_time", body.run_cpu_time, allowed.cpu_s * _MS)
    memory = _bounded("run_memory_limit", body.run_memory_limit, allowed.memory_bytes)
    if compiled:
        wall += _bounded("compile_timeout", body.compile_timeout, allowed.wall_s * _MS)
        cpu += _bounded("compile_cpu_time", body.compile_cpu_time, allowed.cpu_s * _MS)
        building = _bounded("compile_memory_limit", body.compile_memory_limit, allowed.memory_bytes)
        memory = max(memory, building)
    return {
        "wall_s": min(wall / _MS, allowed.wall_s),
        "cpu_s": min(cpu / _MS, allowed.cpu_s),
        "memory_bytes": int(memory),
    }


def _bounded(field: str, given: float | None, most: float) -> float:
    if given is None or given < 0:
        return most
    if given > most:
        raise InvalidInput.at(field, f"can't exceed the {most:.10g} that this box allows")
    return given


def _run_stage(run: RunResult) -> StageAnswer:
    status, message = _verdict(run)
    killed = status is not None and run.exit_code is None
    stdout, stderr = run.stdout.decode(errors="replace"), run.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=stdout + stderr,
        code=run.exit_code,
        signal=_signal_name(run.signal or signal.SIGKILL) if killed else None,
        message=message,
        status=status,
        cpu_time=round(run.usage.cpu_s * _MS),
        wall_time=round(run.usage.wall_s * _MS),
        memory=run.usage.max_rss_bytes,
    )


def _verdict(run: RunResult) -> tuple[str | None, str | None]:
    if run.ok:
        return None, None
    if run.reason is EndReason.EXITED:
        return "RE", f"exited with the status {run.exit_code}"
    if run.reason is EndReason.SIGNALLED:
        return "SG", f"ended by the signal {_signal_name(run.signal or 0)}"
    return _STATUS[run.reason]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def _compile_stage(build: BuildReport) -> StageAnswer:
    """What the stage used is not told apart from the run that it shares a sandbox with."""
    stdout, stderr = build.stdout.decode(errors="replace"), build.stderr.decode(errors="replace")
    return StageAnswer(
        stdout=stdout,
        stderr=stderr,
        output=stdout + stderr,
        code=build.exit_code,
        signal=None,
        message=None if build.ok else f"exited with the status {build.exit_code}",
        status=None if build.ok else "RE",
        cpu_time=None,
        wall_time=None,
        memory=None,
    )
