"""Parses, cuts and combines Python source without running it."""

import ast
import copy
import hashlib
import warnings
from collections.abc import Iterable
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


_MAX_CHARACTERS = 500_000
_MAX_CUTS = 100


def parse_module(source: str) -> ast.Module | None:
    """The syntax tree, or None if the text is not Python or is too long or too deeply nested."""
    if len(source) > _MAX_CHARACTERS:
        return None
    source = source.removeprefix("\ufeff")  # which only a file may begin with
    try:
        with warnings.catch_warnings():
            # An invalid escape in a model's string must not warn here.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def parse_expression(source: str) -> ast.expr | None:
    """The tree of a single expression, or None if the text is not one."""
    tree = parse_module(f"({source}\n)") if source.strip() else None
    node = tree.body[0] if tree and len(tree.body) == 1 else None
    return node.value if isinstance(node, ast.Expr) else None


def parse_literal(source: str) -> tuple[Any] | None:
    """The value of a literal, in a tuple of one; None if the text is not a literal."""
    node = parse_expression(source)
    try:
        return (ast.literal_eval(node),) if node is not None else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def longest_valid_prefix(source: str) -> str:
    """The longest run of leading lines that parses; "" if there is none."""
    lines = source.splitlines()
    for _ in range(_MAX_CUTS):
        broken = _first_broken_line(lines)
        if broken is None:
            return "\n".join(lines)
        lines = lines[: max(0, min(broken, len(lines)) - 1)]
        # The statement that was cut through is removed as a whole.
        while lines and lines[-1].rstrip().endswith((":", ",", "(", "[", "{", "\\")):
            lines.pop()
    return ""


def _first_broken_line(lines: list[str]) -> int | None:
    """Number, from 1, of the line that does not parse; None if all lines do."""
    source = "\n".join(lines)
    if parse_module(source) is not None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(source)
    except SyntaxError as error:
        return error.lineno or 1
    except (ValueError, RecursionError, MemoryError):
        return 1
    return 1


def functions(tree: ast.Module) -> dict[str, Function]:
    """Top-level functions by name; of several with one name the last, as at run time."""
    return {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """Top-level functions and classes by name."""
    return {n.name: n for n in tree.body if isinstance(n, Definition)}


def parameters(function: Function) -> list[str]:
    """Names of the positional parameters, in order."""
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]


def bound_names(tree: ast.Module) -> set[str]:
    """Names that the module binds at its top level: definitions, imports, assignments."""
    names: set[str] = set()
    for node in tree.body:
        names |= _names_bound_by(node)
    return names


def imported_modules(tree: ast.Module) -> list[str]:
    """Top-level names of all imported modules, in order of first mention."""
    modules: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules.update({alias.name.split(".")[0]: None for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules[node.module.split(".")[0]] = None
    return list(modules)


def remove_statements(source: str, nodes: Iterable[ast.stmt]) -> str:
    """The source without the lines of these top-level statements."""
    lines = source.splitlines()
    for node in nodes:
        for number in range(_first_line(node) - 1, node.end_lineno or node.lineno):
            lines[number] = "\0"
    return "\n".join(line for line in lines if line != "\0").strip("\n") + "\n"


def segment(source: str, node: ast.stmt) -> str:
    """The lines of a top-level statement with its decorators."""
    return "\n".join(source.splitlines()[_first_line(node) - 1 : node.end_lineno])


def splice_definitions(original: str, replacement: str) -> str | None:
    """`original` with its definitions replaced by those of the same name in `replacement`.

    For an answer that holds only the functions that it changed. None if `replacement` defines
    everything that the original does, or nothing of it.
    """
    old, new = parse_module(original), parse_module(replacement)
    if old is None or new is None:
        return None
    before, after = definitions(old), definitions(new)
    if not after or not (before.keys() & after.keys()) or before.keys() <= after.keys():
        return None
    lines = original.splitlines()
    for name, node in sorted(before.items(), key=lambda item: -item[1].lineno):
        if name in after:
            lines[_first_line(node) - 1 : node.end_lineno] = segment(
                replacement, after[name]
            ).splitlines()
    bound = bound_names(old)
    missing = [n for n in new.body if _names_bound_by(n) - bound and not isinstance(n, ast.Expr)]
    imports = [
        segment(replacement, n) for n in missing if isinstance(n, ast.Import | ast.ImportFrom)
    ]
    rest = [
        segment(replacement, n) for n in missing if not isinstance(n, ast.Import | ast.ImportFrom)
    ]
    at = after_preamble(old)
    lines[at:at] = imports
    return "\n".join([*lines, *(f"\n\n{text}" for text in rest)]) + "\n"


def fingerprint(source: str) -> str:
    """A digest that is equal for sources that differ only in layout, comments and docstrings."""
    tree = parse_module(source)
    normal = ast.dump(_without_docstrings(tree)) if tree else "".join(source.split())
    return hashlib.sha256(normal.encode()).hexdigest()[:16]


def _names_bound_by(node: ast.stmt) -> set[str]:
    if isinstance(node, Definition):
        return {node.name}
    if isinstance(node, ast.Import | ast.ImportFrom):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        return {
            n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
    return set()


def _first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def after_preamble(tree: ast.Module) -> int:
    """Number of lines up to the docstring and the __future__ imports; imports may follow there."""
    line = 0
    for node in tree.body:
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (docstring or future):
            break
        line = node.end_lineno or node.lineno
    return line


def _without_docstrings(tree: ast.Module) -> ast.Module:
    bare = copy.deepcopy(tree)
    for node in ast.walk(bare):
        if isinstance(node, ast.Module | Definition) and ast.get_docstring(node, clean=False):
            node.body = node.body[1:] or [ast.Pass()]
    return bare
