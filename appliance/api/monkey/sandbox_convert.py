"""Converts bodies to programs; and results, events and languages to answers."""

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import structs

from appliance.api.http.errors import status_for_code
from appliance.api.monkey.sandbox_schemas import (
    ArtifactAnswer,
    BuildAnswer,
    Encoding,
    IsolationAnswer,
    LanguageAnswer,
    LanguagesAnswer,
    LimitsBody,
    RunAnswer,
    RunBody,
    SandboxFileBody,
    UsageAnswer,
)
from appliance.api.streaming.sse import Frame, Frames
from appliance.domain.execution import BuildReport, Isolation, OutputStream, SandboxFile
from appliance.errors import ApplianceError, InvalidInput
from appliance.services.sandbox.programs import Program, ProgramResult
from appliance.services.sandbox.run_events import Finished, Output, Queued, RunEvent, Started
from appliance.services.sandbox.service import Language, SandboxCapabilities

_MAX_UTF8_BYTES = 4


def convert_program(body: RunBody) -> Program:
    """The program of a body. Raises InvalidInput naming the field."""
    return Program(
        language=body.language,
        argv=tuple(body.argv or ()),
        code=None if body.code is None else decode_content("code", body.code, "utf-8"),
        files=tuple(_file(f"files[{at}].content", file) for at, file in enumerate(body.files)),
        entry=body.entry,
        args=tuple(body.args),
        stdin=decode_content("stdin", body.stdin, body.stdin_encoding),
        environment=body.environment,
        limits=_limits(body.limits),
        artifacts=tuple(body.artifacts),
    )


def decode_content(field: str, text: str, encoding: Encoding) -> bytes:
    """The bytes of a text or of base64. Raises InvalidInput."""
    try:
        if encoding == "base64":
            return base64.b64decode(text, validate=True)
        return text.encode()
    except (binascii.Error, ValueError) as error:
        raise InvalidInput.at(field, f"is not valid {encoding}: {error}") from None


def run_answer(result: ProgramResult) -> RunAnswer:
    run = result.run
    return RunAnswer(
        ok=run.ok,
        reason=run.reason,
        exit_code=run.exit_code,
        signal=run.signal,
        stdout=_text(run.stdout),
        stdout_base64=_base64_if_binary(run.stdout),
        stderr=_text(run.stderr),
        stderr_base64=_base64_if_binary(run.stderr),
        truncated=run.output_truncated,
        language=result.language,
        version=result.version,
        build=_build(run.build),
        usage=UsageAnswer(**structs.asdict(run.usage)),
        artifacts=[_artifact(file) for file in run.artifacts],
        artifacts_refused=list(run.artifacts_refused),
        isolation=_isolation(run.isolation),
    )


def languages_answer(capabilities: SandboxCapabilities) -> LanguagesAnswer:
    status = capabilities.status
    return LanguagesAnswer(
        languages=[_language(each) for each in capabilities.languages],
        complete=capabilities.complete,
        live_output=capabilities.live_output,
        available=status.available,
        problem=status.problem or None,
        remedy=status.remedy or None,
        isolation=_isolation(status.isolation) if status.isolation else None,
        limits=msgspec.to_builtins(capabilities.limits),
    )


async def event_frames(events: AsyncGenerator[RunEvent, None]) -> Frames:
    """One frame per event; the last is the result or an error."""
    number = 0
    decoders = {stream: _Decoder(stream) for stream in OutputStream}
    try:
        async with aclosing(events):
            async for event in events:
                for data in _frames_of(event, decoders):
                    number += 1
                    yield Frame(number, data)
    except ApplianceError as error:
        yield Frame(number + 1, _error(error.code, error.message))


def _frames_of(
    event: RunEvent, decoders: "Mapping[OutputStream, _Decoder]"
) -> list[Mapping[str, Any]]:
    match event:
        case Queued(place):
            return [{"type": "queued", "place": place}]
        case Started(live, language, version):
            return [{"type": "started", "live": live, "language": language, "version": version}]
        case Output(stream, data):
            return decoders[stream].feed(data)
        case Finished(result):
            rest = [frame for decoder in decoders.values() for frame in decoder.end()]
            return [*rest, {"type": "result", "result": msgspec.to_builtins(run_answer(result))}]


class _Decoder:
    """Converts chunks of a stream to frames; a character can be split between two chunks."""

    def __init__(self, stream: OutputStream) -> None:
        self._stream = stream
        self._incomplete = b""

    def feed(self, data: bytes) -> list[Mapping[str, Any]]:
        data = self._incomplete + data
        self._incomplete = b""
        try:
            return [{"type": self._stream, "text": data.decode()}]
        except UnicodeDecodeError as error:
            if error.end < len(data) or len(data) - error.start >= _MAX_UTF8_BYTES:
                return [self._binary_frame(data)]
            self._incomplete = data[error.start :]
            whole = data[: error.start].decode()
            return [{"type": self._stream, "text": whole}] if whole else []

    def end(self) -> list[Mapping[str, Any]]:
        return [self._binary_frame(self._incomplete)] if self._incomplete else []

    def _binary_frame(self, data: bytes) -> Mapping[str, Any]:
        return {"type": self._stream, "base64": base64.b64encode(data).decode()}


def _error(code: str, message: str) -> Mapping[str, Any]:
    return {
        "type": "error",
        "error": {"code": code, "message": message},
        "status": status_for_code(code),
    }


def _file(field: str, file: SandboxFileBody) -> SandboxFile:
    return SandboxFile(
        file.path, decode_content(field, file.content, file.encoding), file.executable
    )


def _limits(body: LimitsBody) -> dict[str, float]:
    return {name: value for name, value in structs.asdict(body).items() if value is not None}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _base64_if_binary(data: bytes) -> str | None:
    """Base64 of bytes that are not UTF-8; else None."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
    return None


def _artifact(file: SandboxFile) -> ArtifactAnswer:
    exact = _base64_if_binary(file.content)
    return ArtifactAnswer(
        path=file.path,
        size=len(file.content),
        content=_text(file.content) if exact is None else exact,
        encoding="utf-8" if exact is None else "base64",
        executable=file.executable,
    )


def _build(build: BuildReport | None) -> BuildAnswer | None:
    if build is None:
        return None
    return BuildAnswer(
        reason=build.reason,
        exit_code=build.exit_code,
        signal=build.signal,
        stdout=_text(build.stdout),
        stderr=_text(build.stderr),
        usage=UsageAnswer(**structs.asdict(build.usage)),
    )


def _isolation(isolation: Isolation) -> IsolationAnswer:
    return IsolationAnswer(
        isolation.backend, isolation.level, list(isolation.layers), list(isolation.degraded)
    )


def _language(language: Language) -> LanguageAnswer:
    return LanguageAnswer(
        name=language.name,
        version=language.version,
        aliases=list(language.aliases),
        extensions=list(language.extensions),
        compiled=language.compiled,
        main_file=language.main_file,
    )
