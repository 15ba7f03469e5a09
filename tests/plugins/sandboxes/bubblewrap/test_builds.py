"""Build steps: limits of their own, and a report in every case."""

import shutil

import pytest
from msgspec import structs

from appliance.domain.execution import BuildStep, EndReason, Limits, RunRequest, SandboxFile
from appliance.sandbox.languages import recipes
from tests.support.sandbox import GENEROUS, Backend

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

_BUSY = "while :; do :; done"
_PROGRAM = ("sh", "-c", "cat made; cat; echo e >&2")


def build(script: str, wall_s: float = 60.0, cpu_s: float = 30.0) -> BuildStep:
    return BuildStep(("sh", "-c", script), wall_s, cpu_s)


async def test_build_when_it_works_then_the_program_finds_what_it_made(backend: Backend) -> None:
    step = build("cat > made; echo made >> made; echo warning >&2; echo note; sleep 600 &")
    request = RunRequest(_PROGRAM, stdin=b"input", limits=GENEROUS, build=step)

    result = await backend.run(request)

    assert (result.stdout, result.stderr, result.exit_code) == (b"made\ninput", b"e\n", 0)
    assert result.build
    assert (result.build.stdout, result.build.stderr) == (b"note\n", b"warning\n")
    assert (result.build.reason, result.build.exit_code) == (EndReason.EXITED, 0)
    assert result.build.usage.wall_s > 0


async def test_build_when_it_fails_then_its_end_is_the_runs(backend: Backend) -> None:
    request = RunRequest(_PROGRAM, limits=GENEROUS, build=build("echo o; echo e >&2; exit 3"))

    result = await backend.run(request)

    assert (result.stdout, result.stderr, result.exit_code) == (b"o\n", b"e\n", 3)
    assert result.build
    assert (result.build.stdout, result.build.stderr, result.build.exit_code) == (b"o\n", b"e\n", 3)
    assert result.usage == result.build.usage


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (structs.replace(GENEROUS, wall_s=0.5), EndReason.WALL_TIME),
        (structs.replace(GENEROUS, cpu_s=0.5), EndReason.CPU_TIME),
    ],
)
async def test_program_when_it_is_killed_then_the_build_is_still_reported(
    backend: Backend, limits: Limits, reason: EndReason
) -> None:
    """F2, F3: the build takes longer than the program may."""
    burn = "python3 -c 'import time\nwhile time.process_time() < 1: pass'; echo built"
    request = RunRequest(("sh", "-c", f"echo on; {_BUSY}"), limits=limits, build=build(burn))

    result = await backend.run(request)

    assert (result.reason, result.stdout) == (reason, b"on\n")
    assert result.build
    assert (result.build.ok, result.build.stdout) == (True, b"built\n")
    assert result.build.usage.cpu_s >= 1
    assert result.usage.wall_s >= 0.4


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (build(_BUSY, wall_s=0.5), EndReason.WALL_TIME),
        (build(_BUSY, cpu_s=0.5), EndReason.CPU_TIME),
        (build("kill -SEGV $$"), EndReason.SIGNALLED),
    ],
)
async def test_build_when_it_is_killed_then_reported_and_nothing_is_run(
    backend: Backend, step: BuildStep, reason: EndReason
) -> None:
    """F3"""
    result = await backend.run(RunRequest(("echo", "on"), limits=GENEROUS, build=step))

    assert (result.reason, result.stdout, result.exit_code) == (reason, b"", None)
    assert result.build
    assert (result.build.reason, result.build.exit_code) == (reason, None)
    assert result.build.signal == result.signal


async def test_build_when_it_says_much_then_the_start_is_reported(backend: Backend) -> None:
    request = RunRequest(("true",), limits=GENEROUS, build=build("yes | head -c 300000; exit 1"))

    result = await backend.run(request)

    assert result.build
    assert (len(result.build.stdout), len(result.stdout)) == (65536, 300_000)


_HEAP = """
public class Main {
    public static void main(String[] words) {
        java.util.List<byte[]> kept = new java.util.ArrayList<>();
        for (int count = 0; count < Integer.parseInt(words[0]); count++) {
            kept.add(new byte[1 << 20]);
        }
        System.out.println(kept.size());
    }
}
"""


@pytest.mark.skipif(
    shutil.which("javac", path="/usr/bin:/bin") is None,
    reason="needs java: no compiler on this machine",
)
async def test_java_when_its_heap_is_used_then_most_of_the_memory_is_there(
    backend: Backend,
) -> None:
    """F4, F7"""
    recipe = recipes.find_recipe("java")
    assert recipe
    limits = Limits(wall_s=120, cpu_s=60)
    file = SandboxFile("any name.java", _HEAP.encode())
    for count, output in (("140", b"140\n"), ("1000", b"")):
        commands = recipes.make_commands(recipe, file.path, [file], [count], limits.memory_bytes)
        assert commands.build
        step = BuildStep(commands.build, 120, 60)

        result = await backend.run(RunRequest(commands.run, (file,), limits=limits, build=step))

        assert (result.reason, result.stdout) == (EndReason.EXITED, output), result
        assert (b"OutOfMemoryError: Java heap space" in result.stderr) == (not output)
