"""The standard streams of a program: by name, at its end, and when it can't be started."""

import shutil

import pytest

from appliance.domain.execution import EndReason, Limits, RunRequest, SandboxFile
from tests.support.sandbox import GENEROUS, Backend, run_python
from tests.support.stream_programs import PROGRAMS, stream_request

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("name", list(PROGRAMS))
async def test_streams_when_opened_by_name_then_they_are_the_programs(
    backend: Backend, name: str
) -> None:
    """F1"""
    result = await backend.run(stream_request(name))

    assert (result.stdout, result.stderr, result.exit_code) == (b"abc", b"e", 0)


async def test_streams_of_the_init_process_when_opened_by_the_program_then_refused(
    backend: Backend,
) -> None:
    code = """
import os
opened = []
for number in range(10):
    try:
        opened.append(os.open(f'/proc/1/fd/{number}', os.O_RDWR | os.O_NONBLOCK))
    except OSError:
        pass
print(opened)
"""
    assert (await run_python(backend, code)).stdout == b"[]\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("python", "-c"), "print('so far', end='')\nwhile True: pass"),
        (("node", "-e"), "process.stdout.write('so far'); for (;;);"),
    ],
)
async def test_output_when_not_flushed_before_a_kill_then_kept(
    backend: Backend, command: tuple[str, str], code: str
) -> None:
    """F6"""
    if shutil.which(command[0], path="/usr/bin:/bin") is None and command[0] != "python":
        pytest.skip(f"needs {command[0]}: it is not on this machine")
    request = RunRequest((*command, code), limits=Limits(wall_s=60, cpu_s=1))

    result = await backend.run(request)

    assert (result.reason, result.stdout) == (EndReason.CPU_TIME, b"so far")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/bin/sh\r\n", b"./x: interpreter not found: /bin/sh (the first line ends with CR LF"),
        (b"#! /opt/none -a\n", b"./x: interpreter not found: /opt/none\n"),
    ],
)
async def test_interpreter_of_a_file_when_it_is_missing_then_named(
    backend: Backend, line: bytes, words: bytes
) -> None:
    """F6"""
    script = SandboxFile("x", line + b"echo went\n", executable=True)

    result = await backend.run(RunRequest(("./x",), files=(script,), limits=GENEROUS))

    assert (result.exit_code, result.stdout) == (127, b"")
    assert words in result.stderr
