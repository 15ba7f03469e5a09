"""From answers to files: names, completions, parts of files, tests beside the code."""

import pytest

from appliance.agents.code import answer_parser, python_source, solution, stubs
from appliance.agents.code.answer_parser import safe_path
from appliance.agents.code.solution import AnswerTarget, Solution
from appliance.agents.verification import caller_tests
from appliance.domain.tasks import SourceFile

STUB = '''import math

LIMIT = 3

def helper(x):
    return x

def area(r: float) -> float:
    """ Area of a circle """
'''


def build(text: str, target: AnswerTarget) -> Solution:
    return solution.build_solution(answer_parser.parse_answer(text, target.language), target)


def defines(code: str | None, *names: str) -> bool:
    tree = python_source.parse_module(code or "")
    return tree is not None and set(names) <= python_source.bound_names(tree)


def test_find_stub_when_a_function_has_only_a_docstring_then_it_is_one() -> None:
    stub = stubs.find_stub(STUB)
    assert stub is not None
    assert (stub.name, stub.parameters) == ("area", ("r",))


@pytest.mark.parametrize(
    "prompt",
    [
        "def area(r):",
        "def area(r):\n    pass",
        "def area(r):\n    ...",
        "def area(r):\n    raise NotImplementedError",
        "Complete this:\n\ndef area(r):\n    '''Area.'''\n",
        "Complete this:\n```python\ndef area(r):\n    '''Area.'''\n```\nIt has to be fast.",
    ],
)
def test_find_stub_when_it_is_written_in_other_ways_then_it_is_found(prompt: str) -> None:
    stub = stubs.find_stub(prompt)
    assert stub is not None
    assert stub.name == "area"


@pytest.mark.parametrize(
    "prompt", ["Write add(a, b)", "def f(x):\n    return x", "", "class A: pass"]
)
def test_find_stub_when_nothing_is_only_declared_then_there_is_none(prompt: str) -> None:
    assert stubs.find_stub(prompt) is None


@pytest.mark.parametrize(
    "answer",
    [
        "```python\ndef area(r):\n    return math.pi * helper(r) ** 2\n```",
        "    return math.pi * r ** 2",
        "```python\n    return math.pi * r ** 2\n```",
        "```python\nreturn math.pi * r ** 2\n```",
        "```python\nimport math\ndef area(r):\n  return math.pi * r ** 2\nassert area(1) == 3\n```",
        "```python\ndef area(r):\n    return math.pi * r * r\n\nprint(area(2))\nx = area(3)\n```",
        "```python\ndef area(r):\n    return math.pi * r * r\n\nprint('unfinished",
    ],
)
def test_build_when_a_function_was_declared_then_the_file_defines_it_and_runs(answer: str) -> None:
    stub = stubs.find_stub(STUB)
    made = build(answer, AnswerTarget("python", stub=stub, tested="area"))
    assert defines(made.code, "area", "math", "helper", "LIMIT")
    scope: dict[str, object] = {}
    exec(compile(made.code or "", "solution.py", "exec"), scope)
    area = scope["area"]
    assert callable(area)
    assert str(area(1.0)).startswith("3.14")


@pytest.mark.parametrize(
    ("answer", "target", "paths"),
    [
        ("```python\ndef f(): pass\n```", AnswerTarget("python"), ["solution.py"]),
        ("```js\nfunction f() {}\n```", AnswerTarget("javascript"), ["solution.js"]),
        ("```python app.py\ndef f(): pass\n```", AnswerTarget("python"), ["app.py"]),
        (
            "```python app.py\ndef f(): pass\n```",
            AnswerTarget("python", main="calc.py"),
            ["calc.py"],
        ),
        (
            "a.py\n```python\nx = 1\n```\nb.py\n```python\ny = 1\n```",
            AnswerTarget("python"),
            ["a.py", "b.py"],
        ),
        (
            "```sh\npip install x\n```\n```python\ndef f(): pass\n```",
            AnswerTarget("python"),
            ["solution.py"],
        ),
        (
            "```python\ndef test_f(): assert f\n```",
            AnswerTarget("python", writes_tests=True),
            ["test_solution.py"],
        ),
        (
            "```python\ndef test_f(): assert f\n```",
            AnswerTarget(
                "python", writes_tests=True, files=(SourceFile("pkg/calc.py", "def f(): pass\n"),)
            ),
            ["test_calc.py"],
        ),
        (
            "```python\ndef g(): return 2\n```",
            AnswerTarget(
                "python",
                files=(SourceFile("a.py", "x = 1\n"), SourceFile("b.py", "def g(): pass\n")),
            ),
            ["b.py"],
        ),
    ],
)
def test_build_when_blocks_are_named_or_not_then_files_get_their_paths(
    answer: str, target: AnswerTarget, paths: list[str]
) -> None:
    assert [file.path for file in build(answer, target).files] == paths


def test_build_when_only_one_function_of_a_file_is_shown_then_the_rest_stays() -> None:
    original = "import os\n\ndef a():\n    return 1\n\n\ndef b():\n    return 2\n"
    target = AnswerTarget("python", files=(SourceFile("m.py", original),))
    made = build("```python\nimport sys\n\ndef b():\n    return sys.path\n```", target)
    assert made.files == (
        SourceFile(
            "m.py",
            "import sys\nimport os\n\ndef a():\n    return 1\n\n\ndef b():\n    return sys.path\n",
        ),
    )


def test_build_when_a_file_is_unchanged_then_it_is_not_in_the_answer() -> None:
    target = AnswerTarget("python", files=(SourceFile("m.py", "x = 1\n"),))
    made = build("m.py\n```python\nx = 1\n```", target)
    assert made.files == ()
    assert made.code == "x = 1\n"


def test_build_when_tests_come_with_the_code_then_they_are_kept_apart() -> None:
    test = "import pytest\ndef test_f():\n    assert f() == 1\n"
    text = f"```python\ndef f(): return 1\n```\n```python\n{test}```"
    made = build(text, AnswerTarget("python"))
    assert defines(made.code, "f")
    assert made.tests is not None
    assert "test_f" in made.tests


def test_build_when_there_is_no_code_then_there_is_only_text() -> None:
    made = build("I can't.", AnswerTarget("python"))
    assert (made.code, made.files, made.text) == (None, (), "I can't.")


def test_build_when_later_blocks_define_more_then_they_belong_to_the_file() -> None:
    blocks = ("def a(): pass", "def b(): pass", "a()")
    text = "\nand\n".join(f"```python\n{code}\n```" for code in blocks)
    made = build(text, AnswerTarget("python"))
    assert defines(made.code, "a", "b")
    assert "a()\n" not in (made.code or "").replace("def a()", "")


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("a.py", "a.py"),
        ("./a/b.py", "a/b.py"),
        ("a\\b.py", "a/b.py"),
        ("../a.py", None),
        ("a/../../b.py", None),
        ("/etc/passwd", None),
        ("C:/a.py", None),
        ("~/a.py", None),
        (".git/config", None),
        ("a\x00.py", None),
        ("a" * 300, None),
        ("", None),
    ],
)
def test_safe_path_when_a_model_names_a_file_then_it_stays_inside(
    path: str, safe: str | None
) -> None:
    assert safe_path(path) == safe


@pytest.mark.parametrize(
    ("test", "path"),
    [
        ("from calc import add\n", "calc.py"),
        ("import pkg.calc\n", "pkg/calc.py"),
        ("import os, pytest\nfrom calc import add\n", "calc.py"),
        ("import os\n", None),
        ("from helper import x\n", None),
        ("not python(", None),
    ],
)
def test_imported_path_when_tests_import_something_then_the_answer_goes_there(
    test: str, path: str | None
) -> None:
    tests = [SourceFile("test_it.py", test), SourceFile("helper.py", "x = 1\n")]
    assert caller_tests.find_imported_path(tests, []) == path


def test_prepare_test_when_asserts_stand_alone_then_each_is_a_test() -> None:
    made = caller_tests.prepare_test(
        SourceFile("t.py", "x = 1\nassert add(x, 1) == 2\nassert add(0, 0) == 0\n"), "s.py"
    )
    tree = python_source.parse_module(made.content)
    assert tree is not None
    assert len(python_source.functions(tree)) == 2
    assert "from s import *" in made.content


def test_prepare_test_when_tests_import_by_themselves_then_they_stay_as_they_are() -> None:
    test = SourceFile("t.py", "from calc import add\n\ndef test_x():\n    assert add(1, 1) == 2\n")
    assert caller_tests.prepare_test(test, "calc.py") == test


def test_find_vacuous_tests_when_a_test_checks_nothing_then_it_is_named() -> None:
    source = (
        "import pytest\ndef test_a():\n    f()\ndef test_b():\n    assert f()\n"
        "def test_c():\n    with pytest.raises(ValueError):\n        f()\n"
    )
    assert caller_tests.find_vacuous_tests(source) == {"test_a"}


CRLF_FILE = (
    "\ufeffimport os  \r\n\r\n\r\ndef old():\r\n    return 1\r\n\r\n\r\ndef other():\r\n    pass"
)
FORMATS = {
    "CRLF": "import os\r\nA = 1\r\n",
    "CR": "import os\rA = 1\r",
    "byte order mark": "\ufeffimport os\nA = 1\n",
    "no final newline": "import os\nA = 1",
    "blank end": "\n\nimport os\nA = 1  \n\n\n",
    "mixed": CRLF_FILE.replace("os  \r\n", "os  \n"),
}


@pytest.mark.parametrize("name", list(FORMATS))
def test_build_when_the_answer_repeats_a_file_then_it_is_unchanged(name: str) -> None:
    """F5"""
    content = FORMATS[name]
    shown = content.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    target = AnswerTarget("python", (SourceFile("a.py", content), SourceFile("b.py", "B = 1\n")))

    built = build(f"b.py\n```python\nB = 2\n```\na.py\n```python\n{shown}\n```", target)

    assert [file.path for file in built.files] == ["b.py"]


def test_build_when_the_answer_changes_a_file_then_its_format_is_kept() -> None:
    """F5"""
    target = AnswerTarget("python", (SourceFile("a.py", CRLF_FILE),))
    answer = "import os\n\n\ndef old():\n    x = 1\n    return 2\n\n\ndef other():\n    pass\n"

    built = build(f"a.py\n```python\n{answer}```", target)

    changed = CRLF_FILE.replace("    return 1\r\n", "    x = 1\r\n    return 2\r\n")
    assert built.files == (SourceFile("a.py", changed),)


def test_build_when_the_answer_has_one_function_of_a_file_then_its_format_is_kept() -> None:
    """F5"""
    target = AnswerTarget("python", (SourceFile("a.py", CRLF_FILE),))

    built = build("a.py\n```python\ndef old():\n    return 2\n```", target)

    assert built.files == (SourceFile("a.py", CRLF_FILE.replace("return 1", "return 2")),)
