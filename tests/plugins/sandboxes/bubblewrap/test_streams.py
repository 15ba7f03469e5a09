"""The standard streams of a program, by their names in /dev."""

import pytest

from tests.support.sandbox import Backend, run_python
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
