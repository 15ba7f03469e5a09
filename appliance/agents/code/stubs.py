"""Stubs: functions that a prompt declares (signature, docstring) for the model to complete."""

import ast
import re
import textwrap

from msgspec import Struct

from appliance.agents.code import python_source
from appliance.agents.code.python_source import Function

_FENCED = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_CODE = re.compile(
    r"^(?:from [\w.]+ import |import [\w.]+|(?:async )?def \w+\s*\(|class \w+|@\w)", re.M
)


class Stub(Struct, frozen=True):
    """`source` is the prompt's code that declares the function `name`, with what surrounds it.

    `before` and `after` are the prompt's text around that code.
    """

    name: str
    source: str
    parameters: tuple[str, ...]
    before: str = ""
    after: str = ""


def find_stub(prompt: str) -> Stub | None:
    """The last function of the prompt that has no body, or None."""
    for start, end, source in _candidate_sources(prompt):
        source_with_body = _close_declaration(source)
        tree = python_source.parse_module(source_with_body)
        if tree is None:
            continue
        empty = [f for f in python_source.functions(tree).values() if _has_empty_body(f)]
        if empty:
            target = empty[-1]
            return Stub(
                name=target.name,
                source=source_with_body,
                parameters=tuple(python_source.parameters(target)),
                before=prompt[:start].strip(),
                after=prompt[end:].strip(),
            )
    return None


def complete_stub(stub: Stub, code: str) -> str:
    """The code as a whole module that defines the stub's function.

    A bare body is put under the stub's declaration. A whole function gets the imports, helpers
    and constants of the prompt's code that it lacks.
    """
    tree = python_source.parse_module(code)
    if tree is None or stub.name not in python_source.definitions(tree):
        return _put_body_into(stub, code) or code
    rest = remove_demonstrations(code, stub.name)
    missing = _missing_definitions(stub, python_source.bound_names(tree))
    return f"{missing}\n\n\n{rest}" if missing else rest


def remove_demonstrations(code: str, name: str) -> str:
    """The module without top-level statements that only demonstrate the function `name`.

    An assertion of the model's that is wrong would make the import of the module fail.
    """
    tree = python_source.parse_module(code)
    if tree is None or name not in python_source.definitions(tree):
        return code
    demonstrations = [node for node in tree.body if _is_demonstration(node, name)]
    return python_source.remove_statements(code, demonstrations) if demonstrations else code


def _candidate_sources(prompt: str) -> list[tuple[int, int, str]]:
    """Parts of the prompt that may be code: fenced blocks, all of it, its end."""
    sources = [(m.start(), m.end(), m[1]) for m in _FENCED.finditer(prompt)]
    sources.append((0, len(prompt), prompt))
    first = _CODE.search(prompt)
    if first:
        sources.append((first.start(), len(prompt), prompt[first.start() :]))
    return sources


def _close_declaration(source: str) -> str:
    """The source, with `...` as the body of a declaration at its end."""
    text = source.rstrip()
    last = text.rsplit("\n", 1)[-1]
    if last.endswith(":") and python_source.parse_module(text) is None:
        margin = len(last) - len(last.lstrip())
        return f"{text}\n{' ' * (margin + 4)}...\n"
    return text + "\n"


def _has_empty_body(function: Function) -> bool:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return all(_is_placeholder(statement) for statement in body)


def _is_placeholder(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplementedError" in ast.dump(statement)
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or constant


def _put_body_into(stub: Stub, code: str) -> str | None:
    """The stub with this code as its function's body, or None if that does not parse."""
    declaration = _source_before_body(stub)
    indented = code if code.startswith((" ", "\t")) else textwrap.indent(code, "    ")
    for body in (indented, textwrap.indent(textwrap.dedent(code), "    ")):
        whole = f"{declaration}\n{body.rstrip()}\n"
        if python_source.parse_module(whole) is not None and "return" in body:
            return whole
    return None


def _source_before_body(stub: Stub) -> str:
    """The stub's source up to the place of the function's body."""
    tree = python_source.parse_module(stub.source)
    function = python_source.functions(tree)[stub.name] if tree else None
    if function is None:
        return stub.source
    lines = stub.source.splitlines()
    if ast.get_docstring(function) is not None:
        return "\n".join(lines[: function.body[0].end_lineno])
    return "\n".join(lines[: function.body[0].lineno - 1])


def _missing_definitions(stub: Stub, bound: set[str]) -> str:
    """The stub's top-level statements that bind names which the answer lacks."""
    tree = python_source.parse_module(stub.source)
    if tree is None:
        return ""
    missing: list[str] = []
    for node in tree.body:
        names = python_source.bound_names(ast.Module(body=[node], type_ignores=[]))
        if names - bound - {stub.name}:
            missing.append(python_source.segment(stub.source, node))
    return "\n".join(missing)


def _is_demonstration(node: ast.stmt, name: str) -> bool:
    """Whether a top-level statement prints, asserts, or calls the function."""
    if isinstance(node, python_source.Definition | ast.Import | ast.ImportFrom):
        return False
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
        return False
    called = {
        n.func.id
        for n in ast.walk(node)
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    return name in called or (isinstance(node, ast.Expr) and "print" in called)
