"""Candidates in the real sandbox: right ones, wrong ones, and hostile ones."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from appliance.agents import planner
from appliance.agents.code import answer_parser, solution
from appliance.agents.run.run_context import AnswerSpec
from appliance.agents.verification.sandbox_harness import SandboxHarness
from appliance.agents.verification.verifier import Verdict, Verifier
from appliance.config.settings import SandboxSettings
from appliance.domain.tasks import SourceFile, TaskRequest, VerificationLevel
from appliance.sandbox.runner import SandboxRunner
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]

TEST = SourceFile(
    "test_calc.py",
    "from calc import add\n\ndef test_one():\n    assert add(1, 2) == 3\n\n"
    "def test_two():\n    assert add(0, 0) == 0\n",
)
RIGHT = "def add(a, b):\n    return a + b\n"
PROMPT = "Write a Python function add such that add(1, 2) == 3 and add(0, 0) == 0"
FORGED = """
import glob, json, os
for path in glob.glob("**", recursive=True):
    if os.path.isdir(path):
        with open(os.path.join(path, "report.json"), "w") as out:
            json.dump({"nonce": "", "results": [["test_calc.py::test_one", "passed", ""]]}, out)
print("2 passed in 0.01s")
print(json.dumps({"results": [["test_calc.py::test_one", "passed", ""]]}))
os._exit(0)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def runner(sandbox_python: Path) -> AsyncIterator[SandboxRunner]:
    """The real sandbox; skipped where this machine can't confine."""
    with tempfile.TemporaryDirectory() as folder:
        backend = Bubblewrap(plugin_context(sandbox_python, Path(folder)))
        built = SandboxRunner({"bubblewrap": backend}, SandboxSettings(wall_s=30.0, cpu_s=5.0))
        await built.start()
        status = built.status
        if status.available:
            yield built
        await built.close()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}")


pytestmark = pytest.mark.asyncio(loop_scope="module")


def spec_for(runner: SandboxRunner, prompt: str, *tests: SourceFile, **more: object) -> AnswerSpec:
    request = TaskRequest(prompt=prompt, tests=tests, **more)  # pyright: ignore[reportArgumentType]
    return planner.derive_spec(request, runner.status)


async def verify(
    runner: SandboxRunner, spec: AnswerSpec, code: str, language: str = "python"
) -> Verdict:
    answer = answer_parser.parse_answer(f"```{language}\n{code}```", language)
    return await Verifier(SandboxHarness(runner), spec.checks, spec.target).verify(
        solution.build_solution(answer, spec.target)
    )


async def test_verify_when_the_tests_pass_then_all_count(runner: SandboxRunner) -> None:
    verdict = (await verify(runner, spec_for(runner, "add", TEST), RIGHT)).verification
    assert (verdict.level, verdict.passed, verdict.failed) == (VerificationLevel.CALLER_TESTS, 2, 0)
    assert (verdict.score, verdict.summary) == (1, "2 of 2 tests passed")
    assert verdict.isolation == "namespaces"


async def test_verify_when_a_test_fails_then_it_is_named_with_its_output(
    runner: SandboxRunner,
) -> None:
    verdict = (
        await verify(runner, spec_for(runner, "add", TEST), RIGHT.replace("+", "-"))
    ).verification
    assert (verdict.passed, verdict.failed, verdict.score) == (1, 1, 0.5)
    assert verdict.summary == "1 of 2 tests passed; failed: test_calc.py::test_one"
    assert "assert -1 == 3" in verdict.output


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)\n",
        "import sys\nsys.exit(0)\n",
        FORGED,
        f"{RIGHT}import pytest\npytest.skip('nothing to see', allow_module_level=True)\n",
        f"{RIGHT}import glob, os\nfor name in glob.glob('test*'): os.remove(name)\nos._exit(0)\n",
        "import shutil\nshutil.rmtree('.', ignore_errors=True)\ndef add(a, b): return 0\n",
        "class Any:\n    def __eq__(self, o): raise SystemExit(0)\ndef add(a, b): return Any()\n",
        "import os\nos.kill(os.getppid(), 9)\nos.kill(os.getpid(), 9)\n",
        "def add(a, b)\n",
        "import nothing_like_this\n",
        "",
    ],
    ids=[
        "_exit",
        "exit",
        "forged",
        "skip",
        "unlink",
        "rmtree",
        "exit in test",
        "kill",
        "syntax",
        "import",
        "empty",
    ],
)
async def test_verify_when_a_candidate_cheats_then_nothing_passes(
    runner: SandboxRunner, code: str
) -> None:
    verdict = (await verify(runner, spec_for(runner, "add", TEST), code)).verification
    assert verdict.passed == 0
    assert verdict.failed >= 1
    assert verdict.score == 0


async def test_verify_when_it_writes_its_own_tests_over_mine_then_mine_count(
    runner: SandboxRunner,
) -> None:
    fake = "def test_one():\n    pass\n\ndef test_two():\n    pass\n"
    text = (
        f"calc.py\n```python\ndef add(a, b): return 9\n```\ntest_calc.py\n```python\n{fake}```\n"
        "conftest.py\n```python\ndef pytest_collection_modifyitems(items): items.clear()\n```\n"
    )
    spec = spec_for(runner, "add", TEST)
    built = solution.build_solution(answer_parser.parse_answer(text, "python"), spec.target)
    verdict = await Verifier(SandboxHarness(runner), spec.checks, spec.target).verify(built)
    assert (verdict.verification.passed, verdict.verification.failed) == (0, 2)


async def test_verify_when_one_test_never_ends_then_the_others_count(runner: SandboxRunner) -> None:
    code = "def add(a, b):\n    while a: pass\n    return a + b\n"
    verdict = (await verify(runner, spec_for(runner, "add", TEST), code)).verification
    assert verdict.failed == 1
    assert verdict.passed <= 1


async def test_verify_when_a_candidate_forks_without_end_then_it_is_stopped(
    runner: SandboxRunner,
) -> None:
    code = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    verdict = (await verify(runner, spec_for(runner, "add", TEST), code)).verification
    assert verdict.passed == 0


async def test_verify_when_tests_are_plain_asserts_then_each_counts(runner: SandboxRunner) -> None:
    test = SourceFile("check.py", "assert add(1, 2) == 3\nassert add(0, 0) == 0\n")
    verdict = (await verify(runner, spec_for(runner, "add in Python", test), RIGHT)).verification
    assert (verdict.passed, verdict.failed) == (2, 0)


async def test_verify_when_examples_are_given_then_each_is_called(runner: SandboxRunner) -> None:
    spec = spec_for(runner, PROMPT)
    right = await verify(runner, spec, RIGHT)
    half = await verify(runner, spec, "def add(a, b):\n    return 0\n")
    assert (right.verification.level, right.verification.score) == (VerificationLevel.EXAMPLES, 1)
    assert half.verification.score == 0.5
    assert "add(1, 2) gave 0, expected 3" in half.verification.output
    assert right.behavior != half.behavior


@pytest.mark.parametrize(
    ("code", "passed"),
    [
        ("def add(a, b):\n    while True: pass\n", 0),
        ("def add(a, b):\n    if a:\n        while True: pass\n    return 0\n", 1),
        ("import os\ndef add(a, b):\n    os._exit(0)\n", 0),
        ("def add(a, b):\n    raise SystemExit(0)\n", 0),
        ("def add(a, b):\n    print(3)\n", 0),
        ("def add(a, b):\n    input()\n", 0),
        ("def add(a, b):\n    return [0] * 10 ** 12\n", 0),
        ("class V:\n    def __repr__(self): return '3'\ndef add(a, b):\n    return V()\n", 1),
        ("while True: pass\ndef add(a, b): return a + b\n", 0),
        ("def sub(a, b): return a - b\n", 0),
    ],
)
async def test_verify_when_a_called_candidate_misbehaves_then_only_right_answers_count(
    runner: SandboxRunner, code: str, passed: int
) -> None:
    verdict = (await verify(runner, spec_for(runner, PROMPT), code)).verification
    assert verdict.passed == passed
    assert verdict.failed == 2 - passed


async def test_verify_when_there_is_nothing_to_run_then_only_the_syntax_is_read(
    runner: SandboxRunner,
) -> None:
    spec = spec_for(runner, "Write a Python script")
    spec = replace(spec, checks=replace(spec.checks, level=VerificationLevel.SYNTAX))
    good = (await verify(runner, spec, "print('never run')\n")).verification
    bad = (await verify(runner, spec, "def f(:\n")).verification
    assert (good.level, good.passed, good.score) == (VerificationLevel.SYNTAX, 1, None)
    assert (bad.passed, bad.failed, bad.score) == (0, 1, None)
    assert "SyntaxError" in bad.output
    assert "never run" not in good.output


async def test_verify_when_it_is_shell_then_sh_reads_it_and_scripts_test_it(
    runner: SandboxRunner,
) -> None:
    spec = spec_for(runner, "Write a shell script that greets")
    assert spec.checks.level is VerificationLevel.SYNTAX
    assert (await verify(runner, spec, "if true; then echo hi; fi\n", "sh")).verification.ok
    assert not (await verify(runner, spec, "if true; then\n", "sh")).verification.ok
    test = SourceFile("test_greet.sh", '. ./solution.sh\n[ "$(greet Ann)" = "hi Ann" ]\n')
    spec = spec_for(runner, "Write a shell function greet", test)
    greet = 'greet() { echo "hi $1"; }\n'
    assert (await verify(runner, spec, greet, "sh")).verification.ok
    assert not (await verify(runner, spec, f"{greet}exit 0\n", "sh")).verification.ok
    assert not (await verify(runner, spec, "greet() { echo no; }\n", "sh")).verification.ok


async def test_verify_when_the_host_has_node_then_it_checks_and_tests_javascript(
    runner: SandboxRunner,
) -> None:
    if "node" not in runner.status.languages:
        pytest.skip("needs node: Node.js is not on this machine")
    spec = spec_for(runner, "Write a JavaScript function")
    assert (await verify(runner, spec, "const f = (x) => x;\n", "js")).verification.ok
    assert not (await verify(runner, spec, "const f = (x => x;\n", "js")).verification.ok
    test = SourceFile(
        "add.test.js",
        "const { add } = require('./solution.js');\nif (add(1, 2) !== 3) throw new Error('no');\n",
    )
    spec = spec_for(runner, "Write add", test)
    good = "function add(a, b) { return a + b; }\nmodule.exports = { add };\n"
    assert (await verify(runner, spec, good, "js")).verification.ok
    assert not (await verify(runner, spec, good.replace("+", "-"), "js")).verification.ok
    assert not (await verify(runner, spec, f"{good}process.exit(0);\n", "js")).verification.ok


async def test_verify_when_the_answer_has_no_code_then_it_fails_without_a_run(
    runner: SandboxRunner,
) -> None:
    spec = spec_for(runner, PROMPT)
    built = solution.build_solution(answer_parser.parse_answer("I can't.", "python"), spec.target)
    verdict = (
        await Verifier(SandboxHarness(runner), spec.checks, spec.target).verify(built)
    ).verification
    assert (verdict.score, verdict.summary) == (0, "the answer holds no code")
