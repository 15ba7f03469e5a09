"""Reading Python source without running it."""

import ast
import copy
import hashlib
import warnings
from collections.abc import Iterable
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


_LONGEST = 500_000
_MOST_CUTS = 100


def parse(source: str) -> ast.Module | None:
    """The syntax tree, or None where the text is no Python (or too long or deep to read)."""
    if len(source) > _LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            # A bad escape in a model's string is not a warning about this program.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def expression(source: str) -> ast.expr | None:
    """The tree of one expression, or None where the text is none."""
    tree = parse(f"({source}\n)") if source.strip() else None
    node = tree.body[0] if tree and len(tree.body) == 1 else None
    return node.value if isinstance(node, ast.Expr) else None


def literal(source: str) -> tuple[Any] | None:
    """The value of a literal, in a tuple of one; None where the text is no literal."""
    node = expression(source)
    try:
        return (ast.literal_eval(node),) if node is not None else None
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


def longest_valid_start(source: str) -> str:
    """The source cut after the last line with which it still parses; "" if none."""
    lines = source.splitlines()
    for _ in range(_MOST_CUTS):
        broken = _broken_at(lines)
        if broken is None:
            return "\n".join(lines)
        lines = lines[: max(0, min(broken, len(lines)) - 1)]
        # The statement that the cut broke has to go as a whole.
        while lines and lines[-1].rstrip().endswith((":", ",", "(", "[", "{", "\\")):
            lines.pop()
    return ""


def _broken_at(lines: list[str]) -> int | None:
    """The line, from 1, that can't be read; None if all can."""
    source = "\n".join(lines)
    if parse(source) is not None:
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
    """The functions at the top level, by name; the last of a name wins, as when run."""
    return {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}


def definitions(tree: ast.Module) -> dict[str, Definition]:
    """The functions and classes at the top level, by name."""
    return {n.name: n for n in tree.body if isinstance(n, Definition)}


def parameters(function: Function) -> list[str]:
    """The names that can be filled by position, in order."""
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]


def bound_names(tree: ast.Module) -> set[str]:
    """Names that the module's top level binds: definitions, imports, assignments."""
    names: set[str] = set()
    for node in tree.body:
        names |= _bound_by(node)
    return names


def imported_modules(tree: ast.Module) -> list[str]:
    """Top-level names of the modules imported anywhere, in order of first mention."""
    found: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update({alias.name.split(".")[0]: None for alias in node.names})
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found[node.module.split(".")[0]] = None
    return list(found)


def without(source: str, nodes: Iterable[ast.stmt]) -> str:
    """The source with the lines of these top-level statements left out, all else untouched."""
    lines = source.splitlines()
    for node in nodes:
        for number in range(_first_line(node) - 1, node.end_lineno or node.lineno):
            lines[number] = "\0"
    return "\n".join(line for line in lines if line != "\0").strip("\n") + "\n"


def segment(source: str, node: ast.stmt) -> str:
    """The lines of a top-level statement, decorators included."""
    return "\n".join(source.splitlines()[_first_line(node) - 1 : node.end_lineno])


def spliced(original: str, replacement: str) -> str | None:
    """`original` with the definitions of `replacement` put in their places.

    For an answer that holds only the functions that it changed. None where it is
    no such part: it misses nothing of the original, shares nothing with it, or
    does more than define.
    """
    old, new = parse(original), parse(replacement)
    if old is None or new is None:
        return None
    was, now = definitions(old), definitions(new)
    if not now or not (was.keys() & now.keys()) or was.keys() <= now.keys():
        return None
    lines = original.splitlines()
    for name, node in sorted(was.items(), key=lambda item: -item[1].lineno):
        if name in now:
            lines[_first_line(node) - 1 : node.end_lineno] = segment(
                replacement, now[name]
            ).splitlines()
    known = bound_names(old)
    missing = [n for n in new.body if _bound_by(n) - known and not isinstance(n, ast.Expr)]
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
    """The same for sources that differ only in layout, comments and docstrings."""
    tree = parse(source)
    normal = ast.dump(_without_docstrings(tree)) if tree else "".join(source.split())
    return hashlib.sha256(normal.encode()).hexdigest()[:16]


def _bound_by(node: ast.stmt) -> set[str]:
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
    """Line after the docstring and the __future__ imports: where imports may be added."""
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
