"""Extracts examples from a prompt: calls of the function with the expected value.

Recognized forms are doctests (`>>> f(1)` and the lines after it), calls with a value in common
notations (`f(1) == 2`, `f(1) -> 2`, `f(1) returns 2`), and, if the function's parameters are
known, `For x = 1 the output should be 2` and `Input: x = 1 / Output: 2`. Only literal arguments
and values count, since anything else may be prose.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import islice

from msgspec import Struct

from appliance.agents.code import python_source
from appliance.agents.code.stubs import Stub

MAX_EXAMPLES = 50
_MAX_MATCHES = 500
_MAX_CHARACTERS = 100_000
_DOCTEST = re.compile(r"^(?P<indent>[ \t]*)>>> ?(?P<source>.*)$")
_CALL = re.compile(r"(?<![\w.])(?P<name>[A-Za-z_]\w*)\(")
_OPERATOR = re.compile(
    r"\s*(?:`\s*)?(?:==>?|=+>|-+>|➞|→|⇒|↦|>>|#\s*(?:=>|->|returns?|output:?)?|="
    r"|(?:should|must|will|would|shall)\s+(?:return|be|give|output|equal|evaluate to)"
    r"|(?:returns?|gives?|is|equals|yields|outputs?|evaluates\s+to|produces|prints))"
    r"\s*:?\s*(?:`\s*)?",
    re.IGNORECASE,
)
_CONDITION = re.compile(
    r"^[ \t*•\"'-]*(?:for|given|if|when|with|input\s*:?)\s+", re.IGNORECASE | re.MULTILINE
)
_ASSIGNMENT = re.compile(r"\s*(?P<name>[A-Za-z_]\w*)\s*=(?!=)\s*")
_RESULT = re.compile(
    r"(?:output|result|answer|return(?:s|ed)?(?:\s+value)?|function)\s*"
    r"(?:(?:should|must|will|would)\s+(?:be|return)|is|returns?|[:=]|->|=>)\s*",
    re.IGNORECASE,
)
_BUILTINS = {"print", "len", "assert", "str", "int", "list", "range", "sorted", "set", "tuple"}
_MAX_LITERAL = 1000
_MAX_QUOTES = 20
_CONSTANTS = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


class Example(Struct, frozen=True):
    """`call` is an expression to evaluate after the statements of `setup`.

    `expected` is what an interactive session would show (doctest), else the source of a literal.
    """

    call: str
    expected: str
    doctest: bool = False
    setup: tuple[str, ...] = ()


def find_examples(prompt: str, stub: Stub | None = None) -> list[Example]:
    """All examples of the prompt without duplicates, at most MAX_EXAMPLES."""
    text = prompt[:_MAX_CHARACTERS].replace("\r\n", "\n")
    examples = [*_find_doctests(text), *_find_calls(_without_doctests(text), stub)]
    if stub is not None:
        examples += _find_assignments(text, stub)
    unique = {(example.call, example.setup): example for example in reversed(examples)}
    return list(reversed(unique.values()))[:MAX_EXAMPLES]


def find_tested_function(examples: Sequence[Example]) -> str | None:
    """The function that most of the examples call."""
    names = [match["name"] for e in examples if (match := _CALL.match(e.call))]
    return max(names, key=names.count) if names else None


def find_literal_calls(text: str, name: str) -> list[str]:
    """Calls of that function with literal arguments, in order, on one line each."""
    calls: list[str] = []
    for match in islice(_CALL.finditer(text), _MAX_MATCHES):
        end = _find_closing_parenthesis(text, match.end() - 1) if match["name"] == name else None
        call = " ".join(text[match.start() : end].split("\n")) if end else ""
        if call and _has_literal_arguments(call) and not call.endswith("()"):
            calls.append(call)
    return calls


def _find_doctests(text: str) -> Iterator[Example]:
    """Examples in doctest form; statements before a call are its setup."""
    lines = text.split("\n")
    setup: list[str] = []
    position = 0
    while position < len(lines):
        prompt = _DOCTEST.match(lines[position])
        position += 1
        if prompt is None:
            continue
        source, position = _read_doctest_source(prompt, lines, position)
        expected, position = _read_doctest_output(prompt["indent"], lines, position)
        if not _is_expression(source):
            setup += [source] if python_source.parse_module(source) is not None else []
        elif expected:
            yield Example(source, expected, doctest=True, setup=tuple(setup))
        elif equality := _split_equality(source):
            yield Example(equality[0], equality[1], setup=tuple(setup))


def _read_doctest_source(prompt: re.Match[str], lines: list[str], at: int) -> tuple[str, int]:
    source = [prompt["source"]]
    while at < len(lines) and lines[at].strip().startswith("..."):
        source.append(lines[at].strip()[3:].removeprefix(" "))
        at += 1
    return "\n".join(source).strip(), at


def _read_doctest_output(indent: str, lines: list[str], at: int) -> tuple[str, int]:
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
    tree = python_source.parse_module(source)
    return tree is not None and len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr)


def _split_equality(source: str) -> tuple[str, str] | None:
    """Call and value of `f(1) == 2`; None for any other expression."""
    node = python_source.parse_expression(source)
    if (
        not isinstance(node, ast.Compare)
        or len(node.ops) != 1
        or not isinstance(node.ops[0], ast.Eq)
    ):
        return None
    call, value = ast.unparse(node.left), ast.unparse(node.comparators[0])
    return (call, value) if isinstance(node.left, ast.Call) and _is_literal(value) else None


def _without_doctests(text: str) -> str:
    return "\n".join("" if _DOCTEST.match(line) else line for line in text.split("\n"))


def _find_calls(text: str, stub: Stub | None) -> Iterator[Example]:
    for match in islice(_CALL.finditer(text), _MAX_MATCHES):
        name = match["name"]
        if name in _BUILTINS or (stub is not None and name != stub.name):
            continue
        end = _find_closing_parenthesis(text, match.end() - 1)
        if end is None or not _has_literal_arguments(text[match.start() : end]):
            continue
        operator = _OPERATOR.match(text, end)
        value = _literal_at(text, operator.end()) if operator else None
        if value is not None:
            yield Example(" ".join(text[match.start() : end].split("\n")), value)


def _find_assignments(text: str, stub: Stub) -> Iterator[Example]:
    for condition in islice(_CONDITION.finditer(text), _MAX_MATCHES):
        values, end = _parse_assignments(text, condition.end())
        arguments = _order_arguments(values, stub.parameters)
        if arguments is None and condition[0].strip().lower().startswith("input"):
            arguments, end = _parse_bare_arguments(text, condition.end(), len(stub.parameters))
        if arguments is None:
            continue
        result = _RESULT.search(text, end, end + 120)
        value = _literal_at(text, result.end()) if result else None
        if value is not None:
            yield Example(f"{stub.name}({', '.join(arguments)})", value)


def _parse_assignments(text: str, at: int) -> tuple[dict[str, str], int]:
    values: dict[str, str] = {}
    while assignment := _ASSIGNMENT.match(text, at):
        literal = _literal_at(text, assignment.end(), up_to_comma=True)
        if literal is None:
            break
        values[assignment["name"]] = literal
        at = text.index(literal, assignment.end()) + len(literal)
        separator = re.compile(r"\s*(?:,|and|;)\s*").match(text, at)
        if separator is None:
            break
        at = separator.end()
    return values, at


def _order_arguments(values: dict[str, str], parameters: Sequence[str]) -> list[str] | None:
    """The values in the order of the parameters; a single value may have a different name."""
    if set(values) == set(parameters) and values:
        return [values[name] for name in parameters]
    if len(values) == len(parameters) == 1:
        return list(values.values())
    return None


def _parse_bare_arguments(text: str, at: int, count: int) -> tuple[list[str] | None, int]:
    """`Input: [1, 2], 3`: as many literals on the line as there are parameters."""
    end = text.find("\n", at)
    line = text[at : end if end >= 0 else len(text)].strip()
    node = python_source.parse_expression(line)
    if node is None:
        return None, at
    parts = node.elts if count > 1 and isinstance(node, ast.Tuple) else [node]
    if len(parts) != count or not all(_is_literal(ast.unparse(part)) for part in parts):
        return None, at
    return [ast.unparse(part) for part in parts], at + len(line)


def _find_closing_parenthesis(text: str, opening: int) -> int | None:
    """Index after the bracket that closes the one at `opening`; brackets in strings don't count."""
    depth, quote, position = 0, "", opening
    stop = min(len(text), opening + _MAX_LITERAL)
    while position < stop:
        char = text[position]
        if quote:
            if char == "\\":
                position += 1
            elif char == quote:
                quote = ""
        elif char in "\"'":
            quote = char
        elif char in "([{":
            depth += 1
        elif char in ")]}":
            depth -= 1
            if depth == 0:
                return position + 1
        position += 1
    return None


def _has_literal_arguments(call: str) -> bool:
    """Whether the text is a single call whose arguments are all literals."""
    node = python_source.parse_expression(" ".join(call.split("\n")))
    if not isinstance(node, ast.Call):
        return False
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return all(_is_literal(ast.unparse(value)) for value in values)


def _literal_at(text: str, start: int, *, up_to_comma: bool = False) -> str | None:
    """The longest literal that starts there and ends on the same line.

    A value may be followed by a comma, a full stop, a comment or more words. With `up_to_comma`
    it ends at the first comma, otherwise a tuple without parentheses is no literal.
    """
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)][:_MAX_LITERAL]
    if line.startswith(("[", "(", "{")):
        closed = _find_closing_parenthesis(line, 0)
        whole = line[:closed] if closed else ""
        return whole if _is_literal(whole) else None
    if line.startswith(("'", '"')):
        return _string_at(line)
    word = re.match(r"-?[\w.+-]*\w", line)
    literal = _CONSTANTS.get(word[0].lower(), word[0]) if word else ""
    follows = line[word.end() :].lstrip() if word else ""
    # `f(1) == 2 * 3` or `f(1) is 2x` is no literal.
    computed = follows[:1] in {"*", "+", "/", "%", "(", "[", "<", "^"}
    tuple_ = follows.startswith(",") and not up_to_comma and re.match(r",\s*[\d'\"\[(-]", follows)
    return literal if _is_literal(literal) and not computed and not tuple_ else None


def _string_at(line: str) -> str | None:
    ends = [i + 1 for i, char in enumerate(line) if i and char == line[0]][:_MAX_QUOTES]
    text = next((line[:end] for end in ends if _is_literal(line[:end])), None)
    # A quote or word right after the string: probably mistyped, so its end is uncertain.
    return text if text and not re.match(r"[\w\"']", line[len(text) :]) else None


def _is_literal(source: str) -> bool:
    """Whether the text is a literal."""
    return python_source.parse_literal(source) is not None
