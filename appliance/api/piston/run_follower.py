"""Follows a run to its end: as one answer, or as a stream of messages."""

import codecs
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from appliance.api.piston import answers, convert
from appliance.api.piston.schemas import ExecuteAnswer
from appliance.api.streaming.websocket import Message, Messages
from appliance.domain.execution import OutputStream
from appliance.services.sandbox.programs import ProgramResult
from appliance.services.sandbox.run_events import Finished, Output, RunEvent, Started

_COMPILE, _RUN = "compile", "run"
_SENT_BEFORE = ("stdout", "stderr", "output")


async def collect_answer(events: AsyncGenerator[RunEvent, None]) -> ExecuteAnswer:
    """The answer at the end of the run, with its output in order of arrival."""
    output = bytearray()
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Output):
                output += event.data
            elif isinstance(event, Finished):
                return answers.execute_answer(event.result, bytes(output))
    raise AssertionError("a run ended without a result")


async def stream_messages(events: AsyncGenerator[RunEvent, None], *, compiled: bool) -> Messages:
    """`runtime` and `stage` at the start, `data` as it arrives, `exit` at the end.

    The first output of a `compiled` program counts as that of the stage `run`. Whether it
    was the compiler's is clear at the end only, from the stage of `exit`.
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
                    failed = result.run.build is not None and not result.run.build.ok
                    if stage == _COMPILE and not failed:
                        yield _stage(_RUN)
                    yield _exit(result, _COMPILE if failed else _RUN)
                case _:  # the place in the queue: Piston has no message for it
                    pass


def killed_message(name: str) -> Message:
    """The `exit` of a program that the client ended by a signal."""
    return {
        "type": "exit",
        "stage": _RUN,
        "code": None,
        "signal": "SIGKILL",
        "message": f"ended by the client's {name}",
        "status": "SG",
    }


def _runtime(language: str, version: str) -> Message:
    return {"type": "runtime", "language": convert.piston_name(language), "version": version}


def _stage(stage: str) -> Message:
    return {"type": "stage", "stage": stage}


def _data(stream: OutputStream, text: str) -> Message:
    return {"type": "data", "stream": stream, "data": text}


def _exit(result: ProgramResult, stage: str) -> Message:
    run = msgspec.to_builtins(answers.execute_answer(result, b"").run)
    fields = {name: value for name, value in run.items() if name not in _SENT_BEFORE}
    return {"type": "exit", "stage": stage, **fields}
