"""Functions that a prompt only declares: signature and docstring, the body left to us."""

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
    """`source` is the code around and with the declaration of the function `name`.

    `before` and `after` are what the prompt says around that code.
    """

    name: str
    source: str
    parameters: tuple[str, ...]
    before: str = ""
    after: str = ""


def find(prompt: str) -> Stub | None:
    """The last function of the prompt that has no body yet."""
    for start, end, source in _sources(prompt):
        closed = _closed(source)
        tree = python_source.parse(closed)
        if tree is None:
            continue
        empty = [f for f in python_source.functions(tree).values() if _is_empty(f)]
        if empty:
            target = empty[-1]
            return Stub(
                name=target.name,
                source=closed,
                parameters=tuple(python_source.parameters(target)),
                before=prompt[:start].strip(),
                after=prompt[end:].strip(),
            )
    return None


def completed(stub: Stub, code: str) -> str:
    """The code as a whole module that defines the stub's function.

    A bare body is put under the stub's declaration; a whole function gets what the
    prompt's code has around it and it lacks: imports, helpers, constants.
    """
    tree = python_source.parse(code)
    if tree is None or stub.name not in python_source.definitions(tree):
        return _with_body(stub, code) or code
    rest = demonstrations_removed(code, stub.name)
    missing = _missing_from(stub, python_source.bound_names(tree))
    return f"{missing}\n\n\n{rest}" if missing else rest


def demonstrations_removed(code: str, name: str) -> str:
    """The module without the statements beside the definition of `name` that only show it.

    They are no part of the function, and a wrong one of the model's would break the
    module at import.
    """
    tree = python_source.parse(code)
    if tree is None or name not in python_source.definitions(tree):
        return code
    shown = [node for node in tree.body if _demonstrates(node, name)]
    return python_source.without(code, shown) if shown else code


def _sources(prompt: str) -> list[tuple[int, int, str]]:
    """Places where the prompt may hold code: its fenced blocks, itself, its end."""
    found = [(m.start(), m.end(), m[1]) for m in _FENCED.finditer(prompt)]
    found.append((0, len(prompt), prompt))
    first = _CODE.search(prompt)
    if first:
        found.append((first.start(), len(prompt), prompt[first.start() :]))
    return found


def _closed(source: str) -> str:
    """The source with a body for a declaration at its very end."""
    text = source.rstrip()
    last = text.rsplit("\n", 1)[-1]
    if last.endswith(":") and python_source.parse(text) is None:
        margin = len(last) - len(last.lstrip())
        return f"{text}\n{' ' * (margin + 4)}...\n"
    return text + "\n"


def _is_empty(function: Function) -> bool:
    body = function.body
    if ast.get_docstring(function) is not None:
        body = body[1:]
    return all(_says_nothing(statement) for statement in body)


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return "NotImplementedError" in ast.dump(statement)
    constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass) or constant


def _with_body(stub: Stub, code: str) -> str | None:
    """The stub with this code as its function's body, or None if that is no Python."""
    declared = _cut_at_body(stub)
    indented = code if code.startswith((" ", "\t")) else textwrap.indent(code, "    ")
    for body in (indented, textwrap.indent(textwrap.dedent(code), "    ")):
        whole = f"{declared}\n{body.rstrip()}\n"
        if python_source.parse(whole) is not None and "return" in body:
            return whole
    return None


def _cut_at_body(stub: Stub) -> str:
    """The stub's source up to where the body of its function has to stand."""
    tree = python_source.parse(stub.source)
    function = python_source.functions(tree)[stub.name] if tree else None
    if function is None:
        return stub.source
    lines = stub.source.splitlines()
    if ast.get_docstring(function) is not None:
        return "\n".join(lines[: function.body[0].end_lineno])
    return "\n".join(lines[: function.body[0].lineno - 1])


def _missing_from(stub: Stub, bound: set[str]) -> str:
    """What the stub's module binds beside its function and the answer doesn't."""
    tree = python_source.parse(stub.source)
    if tree is None:
        return ""
    wanted: list[str] = []
    for node in tree.body:
        names = python_source.bound_names(ast.Module(body=[node], type_ignores=[]))
        if names - bound - {stub.name}:
            wanted.append(python_source.segment(stub.source, node))
    return "\n".join(wanted)


def _demonstrates(node: ast.stmt, name: str) -> bool:
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
