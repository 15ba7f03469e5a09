"""A run that is followed to its end: for one answer, or told message by message."""

import codecs
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from appliance.api.piston import answers, convert
from appliance.api.piston.schemas import ExecuteAnswer
from appliance.domain.execution import OutputStream
from appliance.services.sandbox.programs import ProgramResult
from appliance.services.sandbox.run_events import Event, Finished, Output, Started

Message = Mapping[str, Any]
Messages = AsyncGenerator[Message, None]

_COMPILE, _RUN = "compile", "run"
_SHOWN_BEFORE = ("stdout", "stderr", "output")


async def whole(events: AsyncGenerator[Event, None]) -> ExecuteAnswer:
    """The answer once the run is over, its output in the order in which it came."""
    said = bytearray()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Output):
                said += event.data
            elif isinstance(event, Finished):
                return answers.answer(event.result, bytes(said))
    raise AssertionError("a run ends with its result, or raises")


async def messages(events: AsyncGenerator[Event, None], *, compiled: bool) -> Messages:
    """`runtime` and `stage` when it begins, `data` as it comes, `exit` at the end.

    The first that is heard of a `compiled` program is taken for the program's own: whether
    it was the compiler's is known at the end only, and `exit` tells it.
    """
    decoders = {stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in OutputStream}
    stage = _COMPILE if compiled else _RUN
    async with aclosing(events):
        async for event in events:
            match event:
                case Started(_, language, version):
                    yield _runtime(language or "", version or "")
                    yield _stage(stage)
                case Output(stream, data):
                    if stage == _COMPILE:
                        stage = _RUN
                        yield _stage(stage)
                    if text := decoders[stream].decode(data):
                        yield _data(stream, text)
                case Finished(result):
                    for stream, decoder in decoders.items():
                        if text := decoder.decode(b"", final=True):
                            yield _data(stream, text)
                    failed = result.build is not None and not result.build.ok
                    if stage == _COMPILE and not failed:
                        yield _stage(_RUN)
                    yield _exit(result, _COMPILE if failed else _RUN)
                case _:  # its place in the queue, which Piston has no word for
                    pass


def killed(name: str) -> Message:
    """The `exit` of a program that a signal of the client's ended."""
    return {
        "type": "exit",
        "stage": _RUN,
        "code": None,
        "signal": "SIGKILL",
        "message": f"ended at the client's {name}",
        "status": "SG",
    }


def _runtime(language: str, version: str) -> Message:
    return {"type": "runtime", "language": convert.shown_name(language), "version": version}


def _stage(stage: str) -> Message:
    return {"type": "stage", "stage": stage}


def _data(stream: OutputStream, text: str) -> Message:
    return {"type": "data", "stream": stream, "data": text}


def _exit(result: ProgramResult, stage: str) -> Message:
    told = msgspec.to_builtins(answers.answer(result, b"").run)
    ended = {name: value for name, value in told.items() if name not in _SHOWN_BEFORE}
    return {"type": "exit", "stage": stage, **ended}
