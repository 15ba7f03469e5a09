"""Conversion of Piston's requests and answers: names, limits, stages, order of output."""

import base64
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from msgspec import structs

from appliance.api.piston import convert, run_follower
from appliance.api.piston.schemas import ExecuteBody, PackageBody
from appliance.domain.execution import (
    BackendStatus,
    BuildReport,
    EndReason,
    Isolation,
    IsolationLevel,
    Limits,
    OutputStream,
    RunResult,
    RunUsage,
)
from appliance.errors import InvalidInput, NotFound
from appliance.services.sandbox.programs import ProgramResult
from appliance.services.sandbox.run_events import Finished, Output, Queued, RunEvent, Started
from appliance.services.sandbox.service import Language, SandboxCapabilities

LANGUAGES = (
    Language("bash", "5.2.15", main_file="main.bash"),
    Language("c", "12.2.0", ("gcc",), compiled=True, main_file="main.c"),
    Language("cpp", "12.2.0", ("c++",), compiled=True, main_file="main.cpp"),
    Language("node", "20.1.0", ("js", "javascript"), main_file="main.js"),
    Language("python", "3.11.7", ("py", "python3"), main_file="main.py"),
    Language("sh", "dash", ("shell",), main_file="main.sh"),
)
OFFER = SandboxCapabilities(LANGUAGES, True, BackendStatus("test", True), Limits(), True)
RUN = RunResult(
    EndReason.EXITED, 0, None, b"", b"", False, RunUsage(0.5, 0.25, 1000),
    Isolation("test", IsolationLevel.NAMESPACES, ()),
)  # fmt: skip


def body(**fields: Any) -> ExecuteBody:
    whole = {"language": "python", "version": "*", "files": [{"content": ""}], **fields}
    return msgspec.convert(whole, ExecuteBody, strict=False)


@pytest.mark.parametrize(
    ("language", "version", "found"),
    [
        ("sh", "*", "sh"),
        ("sh", "5.x", "bash"),
        ("py3", ">=3 <4", "python"),
        (" JavaScript ", "20", "node"),
        ("c++", "12.2.0", "cpp"),
        ("gcc", "*", "c"),
    ],
)
def test_language_when_named_as_piston_does_then_found(
    language: str, version: str, found: str
) -> None:
    assert (
        convert.convert_program(body(language=language, version=version), OFFER).language == found
    )


def test_language_when_unknown_then_error_lists_available_ones() -> None:
    with pytest.raises(InvalidInput, match=r"cobol-1 is an unknown runtime; available: bash 5.2"):
        convert.convert_program(body(language="cobol", version="1"), OFFER)


def test_runtimes_when_listed_then_each_alias_leads_back() -> None:
    for runtime in convert.runtime_answers(OFFER):
        for name in (runtime.language, *runtime.aliases):
            asked = body(language=name, version=runtime.version)
            program = convert.convert_program(asked, OFFER)
            assert convert.piston_name(program.language or "") == runtime.language


def test_packages_when_listed_then_each_is_installed() -> None:
    for entry in convert.package_entries(OFFER):
        asked = PackageBody(entry.language, entry.language_version)
        assert convert.installed_package(asked, OFFER).language == entry.language
    with pytest.raises(NotFound, match="can't be installed over HTTP; available: bash"):
        convert.installed_package(PackageBody("cobol", "*"), OFFER)


def test_request_when_fields_are_null_then_as_if_they_were_not_there() -> None:
    nulls = body(
        stdin=None, args=None, run_timeout=None, files=[{"content": "x", "encoding": None}]
    )
    program = convert.convert_program(nulls, OFFER)

    assert (program.stdin, program.args, program.files[0].content) == (b"", (), b"x")
    assert program.limits["wall_s"] == Limits().wall_s


@pytest.mark.parametrize("given", ["cHJpbnQo\nMSk=\n", "cHJpbnQoMSk="])
def test_file_when_its_base64_has_line_breaks_then_read_all_the_same(given: str) -> None:
    program = convert.convert_program(body(files=[{"content": given, "encoding": "base64"}]), OFFER)

    assert program.files[0].content == base64.b64decode(given)


@pytest.mark.parametrize(
    ("field", "value", "limit", "meant"),
    [
        ("run_timeout", 0, "wall_s", 10.0),
        ("run_timeout", -1, "wall_s", 10.0),
        ("run_timeout", 100, "wall_s", 0.1),
        ("run_timeout", "3000", "wall_s", 3.0),
        ("run_timeout", 10_000, "wall_s", 10.0),
        ("run_cpu_time", 2500, "cpu_s", 2.5),
        ("run_memory_limit", 16 * 2**20, "memory_bytes", 16 * 2**20),
        ("compile_timeout", 99_999, "wall_s", 10.0),
        ("compile_timeout", 3000, "wall_s", 10.0),
    ],
)
def test_limit_when_in_range_then_kept(field: str, value: Any, limit: str, meant: float) -> None:
    assert convert.convert_program(body(**{field: value}), OFFER).limits[limit] == meant


def test_limits_when_it_is_compiled_then_each_stage_has_its_own_times() -> None:
    """F2"""
    times = {"run_timeout": 1000, "compile_timeout": 3000, "compile_cpu_time": 2000}
    program = convert.convert_program(body(language="c", **times), OFFER)

    assert (program.limits["wall_s"], program.limits["cpu_s"]) == (1.0, 10.0)
    assert program.build_limits == {"wall_s": 3.0, "cpu_s": 2.0}


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("run_timeout", 50, r"run_timeout: 50 is out of range \(100 to 10000\)"),
        ("run_timeout", 10_001, "run_timeout: 10001 is out of range"),
        ("run_memory_limit", 1, "run_memory_limit: 1 is out of range"),
        ("run_cpu_time", 1, "run_cpu_time: 1 is out of range"),
        ("compile_timeout", 99_999, "compile_timeout: 99999 is out of range"),
    ],
)
def test_limit_when_out_of_range_then_error_names_the_client_field(
    field: str, value: float, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        convert.convert_program(body(language="c", **{field: value}), OFFER)


async def events_of(*events: RunEvent) -> AsyncGenerator[RunEvent, None]:
    for event in events:
        yield event


OUT, ERR = OutputStream.STDOUT, OutputStream.STDERR


async def test_output_when_both_streams_speak_then_in_their_order() -> None:
    run = structs.replace(RUN, stdout=b"ac", stderr=b"b")
    said = (Output(OUT, b"a"), Output(ERR, b"b"), Output(OUT, b"c"))
    finished = Finished(ProgramResult(run, "python", "3.11.7"))

    answer = await run_follower.collect_answer(events_of(Queued(1), *said, finished))
    assert (answer.run.output, answer.run.stdout, answer.run.stderr) == ("abc", "ac", "b")

    cut = await run_follower.collect_answer(events_of(Queued(1), *said[:2], finished))
    assert cut.run.output == "acb"


def built(exit_code: int, stderr: bytes = b"") -> BuildReport:
    return BuildReport(EndReason.EXITED, exit_code, None, b"", stderr, RUN.usage)


async def test_compile_stage_when_the_compiler_is_killed_then_its_status_says_so() -> None:
    """F3"""
    build = BuildReport(EndReason.WALL_TIME, None, None, b"", b"", RUN.usage)
    run = structs.replace(RUN, reason=EndReason.WALL_TIME, exit_code=None, build=build)

    answer = await run_follower.collect_answer(events_of(Finished(ProgramResult(run, "c", "12"))))

    assert answer.run == answer.compile
    assert (answer.run.status, answer.run.signal, answer.run.code) == ("TO", "SIGKILL", None)


async def test_stages_when_the_compiler_fails_then_both_show_it_with_figures() -> None:
    result = ProgramResult(structs.replace(RUN, build=built(1, b"no")), "cpp", "12.2.0")
    answer = await run_follower.collect_answer(events_of(Finished(result)))

    assert answer.language == "c++"
    assert answer.run == answer.compile
    assert (answer.run.stderr, answer.run.code, answer.run.wall_time) == ("no", 1, 500)
    works = ProgramResult(structs.replace(RUN, build=built(0)), "cpp", "12.2.0")
    shown = msgspec.to_builtins(await run_follower.collect_answer(events_of(Finished(works))))
    assert (shown["compile"]["wall_time"], shown["compile"]["status"]) == (500, None)
    assert shown["run"]["wall_time"] == 500


@pytest.mark.parametrize(
    ("build", "said", "stages", "exited"),
    [
        (None, True, ["run"], "run"),
        (built(0), True, ["compile", "run"], "run"),
        (built(0), False, ["compile", "run"], "run"),
        (built(1, b"x"), False, ["compile"], "compile"),
    ],
)
async def test_messages_when_there_are_stages_then_sent_in_order(
    build: BuildReport | None, said: bool, stages: list[str], exited: str
) -> None:
    finished = Finished(ProgramResult(structs.replace(RUN, build=build), "c", "12.2.0"))
    output = (Output(OUT, "ä".encode()[:1]), Output(OUT, "ä".encode()[1:])) if said else ()
    events = events_of(Queued(1), Started(True, "c", "12.2.0"), *output, finished)
    told = [each async for each in run_follower.stream_messages(events, compiled=build is not None)]

    assert told[0] == {"type": "runtime", "language": "c", "version": "12.2.0"}
    assert [each["stage"] for each in told if each["type"] == "stage"] == stages
    assert [each["data"] for each in told if each["type"] == "data"] == (["ä"] if said else [])
    assert (told[-1]["type"], told[-1]["stage"]) == ("exit", exited)
    assert not {"stdout", "output"} & told[-1].keys()
