"""Examples that a prompt gives of what its function shall answer.

Read are doctests (`>>> f(1)` and the lines after it), calls with their value in the
notations that people use (`f(1) == 2`, `f(1) -> 2`, `f(1) returns 2`), and, where the
function's parameters are known, `For x = 1 the output should be 2` and
`Input: x = 1 / Output: 2`. Only literal arguments and values count: anything else
may mean what it does not say.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec import Struct

from appliance.agents.code import python_source
from appliance.agents.code.stubs import Stub
from appliance.agents.verification import literals

MOST = 50
_MOST_CALLS = 500
_LONGEST_TEXT = 100_000
_DOCTEST = re.compile(r"^(?P<indent>[ \t]*)>>> ?(?P<source>.*)$")
_CALL = re.compile(r"(?<![\w.])(?P<name>[A-Za-z_]\w*)\(")
_OPERATOR = re.compile(
    r"\s*(?:`\s*)?(?:==>?|=+>|-+>|➞|→|⇒|↦|>>|#\s*(?:=>|->|returns?|output:?)?|="
    r"|(?:should|must|will|would|shall)\s+(?:return|be|give|output|equal|evaluate to)"
    r"|(?:returns?|gives?|is|equals|yields|outputs?|evaluates\s+to|produces|prints))"
    r"\s*:?\s*(?:`\s*)?",
    re.IGNORECASE,
)
_GIVEN = re.compile(
    r"^[ \t*•\"'-]*(?:for|given|if|when|with|input\s*:?)\s+", re.IGNORECASE | re.MULTILINE
)
_ASSIGNMENT = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*=(?!=)\s*")
_RESULT = re.compile(
    r"(?:output|result|answer|return(?:s|ed)?(?:\s+value)?|function)\s*"
    r"(?:(?:should|must|will|would)\s+(?:be|return)|is|returns?|[:=]|->|=>)\s*",
    re.IGNORECASE,
)
_NOT_TESTED = {"print", "len", "assert", "str", "int", "list", "range", "sorted", "set", "tuple"}


class Example(Struct, frozen=True):
    """`call` is an expression to evaluate after `setup`; `expected` is what stands for it.

    For a doctest, `expected` is what an interactive session would show; else the
    source of a literal.
    """

    call: str
    expected: str
    doctest: bool = False
    setup: tuple[str, ...] = ()


def find(prompt: str, stub: Stub | None = None) -> list[Example]:
    """All examples of the prompt, without repetition, at most MOST."""
    text = prompt[:_LONGEST_TEXT].replace("\r\n", "\n")
    found = [*_doctests(text), *_calls(_without_doctests(text), stub)]
    if stub is not None:
        found += _bindings(text, stub)
    unique = {(example.call, example.setup): example for example in reversed(found)}
    return list(reversed(unique.values()))[:MOST]


def tested_name(examples: Sequence[Example]) -> str | None:
    """The function that most of the examples call."""
    names = [match["name"] for e in examples if (match := _CALL.match(e.call))]
    return max(names, key=names.count) if names else None


def literal_calls(text: str, name: str) -> list[str]:
    """Calls of that function with literal arguments, in order, on one line each."""
    found: list[str] = []
    for match in islice(_CALL.finditer(text), _MOST_CALLS):
        end = literals.closing(text, match.end() - 1) if match["name"] == name else None
        call = " ".join(text[match.start() : end].split("\n")) if end else ""
        if call and literals.all_arguments(call) and not call.endswith("()"):
            found.append(call)
    return found


def _doctests(text: str) -> Iterator[Example]:
    """Statements before a call are its setup; a call without an expected line has none."""
    lines = text.split("\n")
    setup: list[str] = []
    position = 0
    while position < len(lines):
        prompt = _DOCTEST.match(lines[position])
        position += 1
        if prompt is None:
            continue
        source, position = _continued(prompt, lines, position)
        expected, position = _shown(prompt["indent"], lines, position)
        if not _is_expression(source):
            setup += [source] if python_source.parse(source) is not None else []
        elif expected:
            yield Example(source, expected, doctest=True, setup=tuple(setup))
        elif compared := _equality(source):
            yield Example(compared[0], compared[1], setup=tuple(setup))


def _continued(prompt: re.Match[str], lines: list[str], at: int) -> tuple[str, int]:
    source = [prompt["source"]]
    while at < len(lines) and lines[at].strip().startswith("..."):
        source.append(lines[at].strip()[3:].removeprefix(" "))
        at += 1
    return "\n".join(source).strip(), at


def _shown(indent: str, lines: list[str], at: int) -> tuple[str, int]:
    shown: list[str] = []
    while at < len(lines):
        line = lines[at]
        if not line.strip() or _DOCTEST.match(line) or line.strip() in ('"""', "'''", "```"):
            break
        shown.append(line.removeprefix(indent).rstrip())
        at += 1
    text = "\n".join(shown)
    for quote in ('"""', "'''"):
        text = text.removesuffix(quote)
    return text.strip(), at


def _is_expression(source: str) -> bool:
    tree = python_source.parse(source)
    return tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


def _equality(source: str) -> tuple[str, str] | None:
    """`f(1) == 2`, where nothing is shown after it, tells the value by itself."""
    node = python_source.expression(source)
    if (
        not isinstance(node, ast.Compare)
        or len(node.ops) != 1
        or not isinstance(node.ops[0], ast.Eq)
    ):
        return None
    call, value = ast.unparse(node.left), ast.unparse(node.comparators[0])
    return (call, value) if isinstance(node.left, ast.Call) and literals.is_one(value) else None


def _without_doctests(text: str) -> str:
    return "\n".join("" if _DOCTEST.match(line) else line for line in text.split("\n"))


def _calls(text: str, stub: Stub | None) -> Iterator[Example]:
    for match in islice(_CALL.finditer(text), _MOST_CALLS):
        name = match["name"]
        if name in _NOT_TESTED or (stub is not None and name != stub.name):
            continue
        end = literals.closing(text, match.end() - 1)
        if end is None or not literals.all_arguments(text[match.start() : end]):
            continue
        operator = _OPERATOR.match(text, end)
        value = literals.at(text, operator.end()) if operator else None
        if value is not None:
            yield Example(" ".join(text[match.start() : end].split("\n")), value)


def _bindings(text: str, stub: Stub) -> Iterator[Example]:
    for given in islice(_GIVEN.finditer(text), _MOST_CALLS):
        values, end = _assignments(text, given.end())
        arguments = _in_order(values, stub.parameters)
        if arguments is None and given[0].strip().lower().startswith("input"):
            arguments, end = _bare_arguments(text, given.end(), len(stub.parameters))
        if arguments is None:
            continue
        result = _RESULT.search(text, end, end + 120)
        value = literals.at(text, result.end()) if result else None
        if value is not None:
            yield Example(f"{stub.name}({', '.join(arguments)})", value)


def _assignments(text: str, at: int) -> tuple[dict[str, str], int]:
    values: dict[str, str] = {}
    while assignment := _ASSIGNMENT.match(text, at):
        literal = literals.at(text, assignment.end(), up_to_comma=True)
        if literal is None:
            break
        values[assignment["name"]] = literal
        at = text.index(literal, assignment.end()) + len(literal)
        separator = re.compile(r"\s*(?:,|and|;)\s*").match(text, at)
        if separator is None:
            break
        at = separator.end()
    return values, at


def _in_order(values: dict[str, str], parameters: Sequence[str]) -> list[str] | None:
    """The values in the order of the parameters; a single value may have another name."""
    if set(values) == set(parameters) and values:
        return [values[name] for name in parameters]
    if len(values) == len(parameters) == 1:
        return list(values.values())
    return None


def _bare_arguments(text: str, at: int, count: int) -> tuple[list[str] | None, int]:
    """`Input: [1, 2], 3`: as many literals on the line as there are parameters."""
    end = text.find("\n", at)
    line = text[at : end if end >= 0 else len(text)].strip()
    node = python_source.expression(line)
    if node is None:
        return None, at
    parts = node.elts if count > 1 and isinstance(node, ast.Tuple) else [node]
    if len(parts) != count or not all(literals.is_one(ast.unparse(part)) for part in parts):
        return None, at
    return [ast.unparse(part) for part in parts], at + len(line)
