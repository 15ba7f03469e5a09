"""Input and results of programs in a real sandbox."""

import asyncio
import json
import shutil

import pytest

from appliance.domain.execution import EndReason, IsolationLevel, Limits, RunRequest, SandboxFile
from appliance.errors import InvalidInput
from plugins._shared.stage.job import ENVIRONMENT
from tests.support.sandbox import GENEROUS, Backend, files, run_python

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_probe_on_this_machine_tells_languages_and_layers(backend: Backend):
    status = await backend.probe()

    assert status.available
    assert status.languages["python"].startswith("3.")
    assert status.languages["sh"]
    assert ("node" in status.languages) == (shutil.which("node", path="/usr/bin:/bin") is not None)
    assert status.isolation is not None
    assert status.isolation.level is IsolationLevel.NAMESPACES
    assert {"seccomp", "no_network", "pid_namespace"} <= set(status.isolation.layers)


async def test_run_of_python_returns_output_and_usage(backend: Backend):
    result = await run_python(backend, "import sys; print(1); print(2, file=sys.stderr)")

    assert (result.reason, result.exit_code, result.signal) == (EndReason.EXITED, 0, None)
    assert (result.stdout, result.stderr) == (b"1\n", b"2\n")
    assert result.ok
    assert not result.output_truncated
    assert 0 < result.usage.cpu_s <= 30
    assert 0 < result.usage.wall_s <= 60
    assert result.usage.max_rss_bytes > 1024 * 1024
    assert result.isolation.backend == "bubblewrap"


async def test_run_of_shell_gets_its_input(backend: Backend):
    request = RunRequest(("sh", "-c", "read a; echo got $a"), stdin=b"this\n", limits=GENEROUS)

    assert (await backend.run(request)).stdout == b"got this\n"


@pytest.mark.skipif(
    shutil.which("node", path="/usr/bin:/bin") is None,
    reason="needs node: Node.js is not on this machine",
)
async def test_run_of_node_works_within_the_default_memory(backend: Backend):
    code = "const a = new Array(1e6).fill(7); console.log(a.length, process.argv.length)"
    request = RunRequest(("node", "-e", code), limits=Limits(wall_s=60, cpu_s=30))

    result = await backend.run(request)

    assert result.stdout == b"1000000 1\n", result


async def test_environment_is_exactly_what_was_given(backend: Backend):
    code = "import os, json; print(json.dumps(dict(os.environ)))"

    result = await run_python(backend, code, env={"A": "b=c", "HOME": "/x"})

    assert json.loads(result.stdout) == {
        "PATH": ENVIRONMENT["PATH"],
        "HOME": "/x",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        "A": "b=c",
    }


async def test_large_input_and_output_go_through_whole(backend: Backend):
    data = bytes(range(256)) * 4096
    code = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"

    result = await run_python(backend, code, stdin=data)

    assert result.stdout == data


async def test_input_that_nobody_reads_does_not_hold_up_the_run(backend: Backend):
    assert (await run_python(backend, "pass", stdin=b"x" * 3_000_000)).ok


async def test_files_nested_and_oddly_named_lie_in_the_workspace(backend: Backend):
    names = ["a b/c\n.txt", "ünï/😀", "-rf", "deep/" * 20 + "x", "'\"$(id)", "\\"]
    given = tuple(SandboxFile(name, name.encode()) for name in names)
    code = (
        "import os; print(all(open(os.path.join(d, f), 'rb').read().decode() == "
        "os.path.relpath(os.path.join(d, f)) for d, _, fs in os.walk('.') for f in fs))"
    )

    result = await run_python(backend, code, files=given, artifacts=("**",))

    assert result.stdout == b"True\n"
    assert sorted(file.path for file in result.artifacts) == sorted(names)


async def test_thousand_files_arrive_and_can_be_brought_back(backend: Backend):
    given = tuple(SandboxFile(f"d{i % 10}/f{i}.txt", b"%d" % i) for i in range(1000))
    code = "import glob; print(len(glob.glob('*/*.txt')))"
    limits = Limits(wall_s=60, cpu_s=30, artifact_files=1000)

    result = await run_python(backend, code, files=given, artifacts=("d*/*.txt",), limits=limits)

    assert result.stdout == b"1000\n"
    assert {file.path: file.content for file in result.artifacts} == {
        file.path: file.content for file in given
    }


async def test_executable_files_can_be_run(backend: Backend):
    script = SandboxFile("go.sh", b"#!/bin/sh\necho went\n", executable=True)

    result = await backend.run(RunRequest(("./go.sh",), files=(script,), limits=GENEROUS))

    assert result.stdout == b"went\n"


async def test_artifacts_are_those_that_match_and_are_plain_files(backend: Backend):
    code = """
import os
os.makedirs('out/deep')
for name in ('out/a.txt', 'out/deep/b.txt', 'out/c.bin', 'top.txt'):
    open(name, 'w').write(name)
os.symlink('/etc/passwd', 'out/link.txt')
os.link('top.txt', 'out/hard.txt')
os.mkfifo('out/pipe.txt')
os.chmod('out/a.txt', 0o755)
open('out/secret.txt', 'w').write('x'); os.chmod('out/secret.txt', 0)
open(b'out/\\xff.txt', 'w').write('x')
"""
    result = await run_python(backend, code, artifacts=("out/**/*.txt",))

    assert [(file.path, file.content, file.executable) for file in result.artifacts] == [
        ("out/a.txt", b"out/a.txt", True),
        ("out/deep/b.txt", b"out/deep/b.txt", False),
    ]
    refused = "\n".join(result.artifacts_refused)
    for name in ("link.txt", "hard.txt", "pipe.txt", "secret.txt", "udcff.txt"):
        assert name in refused


async def test_artifacts_beyond_the_limits_are_refused_by_name(backend: Backend):
    code = """
open('a', 'w').write('x' * 600); open('b', 'w').write('x' * 600); open('c', 'w').write('x')
os = __import__('os'); fd = os.open('sparse', os.O_CREAT | os.O_WRONLY); os.ftruncate(fd, 1 << 24)
"""
    limits = Limits(wall_s=60, cpu_s=30, artifact_bytes=1000, artifact_files=2)

    result = await run_python(backend, code, artifacts=("*",), limits=limits)

    assert [file.path for file in result.artifacts] == ["a", "c"]
    assert len(result.artifacts_refused) == 2


async def test_artifacts_come_back_after_a_failed_run_too(backend: Backend):
    result = await run_python(backend, "open('log', 'w').write('so far'); 1/0", artifacts=("log",))

    assert result.exit_code == 1
    assert result.artifacts[0].content == b"so far"


async def test_very_deep_folders_do_not_hold_up_collecting(backend: Backend):
    code = "import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')\nopen('x', 'w')"

    result = await run_python(backend, code, artifacts=("**",))

    assert result.ok
    assert result.artifacts == ()
    assert "not looked at" in result.artifacts_refused[0]


@pytest.mark.parametrize("code", [0, 1, 42, 137, 255])
async def test_exit_code_is_the_programs_own(backend: Backend, code: int):
    result = await backend.run(RunRequest(("sh", "-c", f"exit {code}"), limits=GENEROUS))

    assert (result.reason, result.exit_code, result.signal) == (EndReason.EXITED, code, None)


@pytest.mark.parametrize("number", [2, 9, 11, 15])
async def test_death_by_signal_is_told_from_an_exit(backend: Backend, number: int):
    result = await backend.run(RunRequest(("sh", "-c", f"kill -{number} $$"), limits=GENEROUS))

    assert (result.reason, result.exit_code, result.signal) == (EndReason.SIGNALLED, None, number)


async def test_missing_program_ends_like_in_a_shell(backend: Backend):
    result = await backend.run(RunRequest(("no-such-program",), limits=GENEROUS))

    assert result.exit_code == 127
    assert b"no-such-program: command not found" in result.stderr


async def test_file_that_is_no_program_ends_like_in_a_shell(backend: Backend):
    given = (SandboxFile("data", b"\x00\x01"),)

    result = await backend.run(RunRequest(("./data",), files=given, limits=GENEROUS))

    assert result.exit_code == 126
    assert b"Permission denied" in result.stderr


async def test_pytest_runs_inside(backend: Backend):
    tests = files(
        add__py="def add(a, b):\n    return a + b\n",
        test_add__py="from add import add\n\ndef test_add():\n    assert add(1, 2) == 3\n",
    )
    request = RunRequest(("python", "-m", "pytest", "-q"), files=tests, limits=GENEROUS)

    result = await backend.run(request)

    assert b"1 passed" in result.stdout, result


async def test_standard_library_is_whole_enough(backend: Backend):
    code = (
        "import asyncio, ssl, sqlite3, lzma, bz2, zlib, ctypes, decimal, hashlib, uuid, curses, "
        "multiprocessing, unittest, doctest, xml.etree.ElementTree, zoneinfo, tomllib, venv\n"
        "with multiprocessing.Pool(2) as pool: print(sum(pool.map(abs, range(10))))"
    )
    assert (await run_python(backend, code)).stdout == b"45\n"


async def test_runs_at_once_do_not_see_each_other(backend: Backend):
    code = """
import os, sys, time
open('/tmp/' + sys.argv[1], 'w'); open(sys.argv[1], 'w'); open('/dev/shm/' + sys.argv[1], 'w')
time.sleep(0.3)  # the three overlap
print(os.listdir('.') + os.listdir('/tmp') + os.listdir('/dev/shm'))
print(len([p for p in os.listdir('/proc') if p.isdigit()]))
"""
    names = ["one", "two", "three"]
    results = await asyncio.gather(
        *(backend.run(RunRequest(("python", "-c", code, n), limits=GENEROUS)) for n in names)
    )
    for name, result in zip(names, results, strict=True):
        assert result.stdout.decode() == f"{[name] * 3}\n2\n"


@pytest.mark.parametrize(
    "request_",
    [
        RunRequest(()),
        RunRequest(("",)),
        RunRequest(("a\0b",)),
        RunRequest(("x" * 200_000,)),
        RunRequest(("\ud800",)),
        RunRequest(("sh",), env={"": "x"}),
        RunRequest(("sh",), env={"A=B": "x"}),
        RunRequest(("sh",), env={"A": "x\0"}),
        RunRequest(("sh",), artifacts=("",)),
        RunRequest(("sh",), artifacts=("*",) * 65),
        RunRequest(("sh",), limits=Limits(wall_s=0)),
        RunRequest(("sh",), limits=Limits(wall_s=float("nan"))),
        RunRequest(("sh",), limits=Limits(memory_bytes=-1)),
        RunRequest(
            ("sh",), files=(SandboxFile("a", b"x" * 5000),), limits=Limits(workspace_bytes=4096)
        ),
        RunRequest(("sh",), files=(SandboxFile("a", b""), SandboxFile("a", b""))),
        RunRequest(("sh",), files=(SandboxFile("a", b""), SandboxFile("a/b", b""))),
        *(
            RunRequest(("sh",), files=(SandboxFile(path, b""),))
            for path in ("", "/", "/etc/x", "..", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b",
                         "x" * 256, "a/" * 600 + "x", "\udcff")
        ),
    ],
)  # fmt: skip
async def test_request_that_can_not_be_is_refused(backend: Backend, request_: RunRequest):
    if isinstance(backend, _in_this_process()):
        with pytest.raises(InvalidInput):
            await backend.run(request_)


def _in_this_process() -> type:
    from plugins.sandboxes.bubblewrap.backend import Bubblewrap

    return Bubblewrap
