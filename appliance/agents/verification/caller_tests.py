"""The caller's tests: what they import, how many they are, and preparing them for pytest."""

import ast
import builtins
import sys
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from appliance.agents.code import languages, python_source
from appliance.domain.tasks import SourceFile

_TEST_PACKAGES = {"pytest", "_pytest", "iniconfig", "packaging", "pluggy"}


def find_imported_path(tests: Sequence[SourceFile], files: Sequence[SourceFile]) -> str | None:
    """The file that the tests import and the caller did not send: where the answer must go."""
    paths = {file.path for file in (*tests, *files)}
    for test in tests:
        tree = python_source.parse_module(test.content) if _is_python(test) else None
        for module in _absolute_imports(tree) if tree else []:
            path = module.replace(".", "/") + ".py"
            if module.split(".")[0] not in _TEST_PACKAGES | sys.stdlib_module_names and not (
                _is_provided(path, paths)
            ):
                return path
    return None


def select_runnable(tests: Iterable[SourceFile]) -> list[SourceFile]:
    """The files that hold tests; the others are data or helpers."""
    return [test for test in tests if languages.detect_from_path(test.path) and _holds_tests(test)]


def count_tests(test: SourceFile) -> int:
    """The least number of tests in the file; parametrized tests count once."""
    tree = python_source.parse_module(test.content)
    return len(_test_functions(tree)) if tree else 1


def find_vacuous_tests(source: str) -> set[str]:
    """Names of the test functions without an assertion, which always pass."""
    tree = python_source.parse_module(source)
    return {f.name for f in _test_functions(tree) if not _has_assertion(f)} if tree else set()


def may_skip(test: SourceFile) -> bool:
    """Whether the file mentions skipping, so that skipped tests don't count as failed."""
    return "skip" in test.content


def prepare_test(test: SourceFile, main: str | None) -> SourceFile:
    """The file in a form that pytest can run against the module `main`.

    Asserts at the top level become test functions, and a file that imports nothing from the
    workspace imports all names of `main`.
    """
    tree = python_source.parse_module(test.content) if _is_python(test) else None
    if tree is None:
        return test
    content = test.content
    if not _test_functions(tree) and any(isinstance(node, ast.Assert) for node in tree.body):
        content = _convert_asserts(tree)
    if main is not None and main.endswith(".py") and _uses_unknown_names(tree):
        module = main.removesuffix(".py").replace("/", ".")
        content = _insert_import(content, f"from {module} import *")
    return SourceFile(test.path, content)


def _is_python(file: SourceFile) -> bool:
    return languages.detect_from_path(file.path) == languages.PYTHON


def _absolute_imports(tree: ast.Module) -> list[str]:
    modules: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.append(node.module)
    return modules


def _is_provided(path: str, paths: set[str]) -> bool:
    """Whether that module, or the package of that name, is among the files."""
    stem = path.removesuffix(".py")
    suffixes = (f"{stem}.py", f"{stem}/__init__.py", f"src/{stem}.py")
    return any(one in paths for one in suffixes) or any(p.startswith(f"{stem}/") for p in paths)


def _holds_tests(test: SourceFile) -> bool:
    if not _is_python(test):
        return languages.detect_from_path(test.path) in (languages.JAVASCRIPT, languages.SHELL)
    name = PurePosixPath(test.path).name
    tree = python_source.parse_module(test.content)
    if tree is None:
        return name != "conftest.py"
    asserts = any(isinstance(node, ast.Assert) for node in tree.body)
    return name != "conftest.py" and (asserts or bool(_test_functions(tree)))


def _test_functions(tree: ast.Module) -> list[python_source.Function]:
    """Test functions at the top level and in test classes."""
    functions = [f for name, f in python_source.functions(tree).items() if name.startswith("test")]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and (node.name.startswith("Test") or node.bases):
            functions += [
                f
                for f in node.body
                if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
                and f.name.startswith("test")
            ]
    return functions


def _has_assertion(function: python_source.Function) -> bool:
    """Whether it asserts, expects an exception, or calls something named like an assertion."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assert):
            return True
        called = node.func if isinstance(node, ast.Call) else None
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in {"raises", "warns", "fail"} or name.lower().startswith("assert"):
            return True
    return False


def _convert_asserts(tree: ast.Module) -> str:
    lines: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assert):
            body = ast.unparse(node).replace("\n", "\n    ")
            lines.append(f"def test_line_{node.lineno}():\n    {body}")
        else:
            lines.append(ast.unparse(node))
    return "\n\n".join(lines) + "\n"


def _uses_unknown_names(tree: ast.Module) -> bool:
    """Whether it uses unbound names and imports no other module that could define them."""
    foreign = set(_absolute_imports(tree)) - sys.stdlib_module_names - _TEST_PACKAGES
    if foreign:
        return False
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    bound |= python_source.bound_names(tree) | set(dir(builtins))
    bound |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return any(node.id not in bound for node in names)


def _insert_import(source: str, statement: str) -> str:
    """The source with the statement after the docstring and the __future__ imports."""
    tree = python_source.parse_module(source)
    at = python_source.after_preamble(tree) if tree else 0
    lines = source.splitlines()
    lines[at:at] = [statement]
    return "\n".join(lines) + "\n"
