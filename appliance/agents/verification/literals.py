"""Literals in running text: where a value starts and ends."""

import ast
import re

from appliance.agents.code import python_source

_LONGEST = 1000
_MOST_QUOTES = 20
_WORDS = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


def closing(text: str, opening: int) -> int | None:
    """Where the parenthesis that opens there closes, quotes respected; one past it."""
    depth, quote, position = 0, "", opening
    stop = min(len(text), opening + _LONGEST)
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


def all_arguments(call: str) -> bool:
    """Whether the text is one call and all its arguments are literals."""
    node = python_source.expression(" ".join(call.split("\n")))
    if not isinstance(node, ast.Call):
        return False
    values = [*node.args, *(keyword.value for keyword in node.keywords)]
    return all(is_one(ast.unparse(value)) for value in values)


def at(text: str, start: int, *, up_to_comma: bool = False) -> str | None:
    """The longest literal that starts there and ends on the same line.

    A value may be followed by a comma, a full stop, a comment or more words; with
    `up_to_comma` the first complete value is taken, not a tuple without parentheses.
    """
    end = text.find("\n", start)
    line = text[start : end if end >= 0 else len(text)][:_LONGEST]
    if line.startswith(("[", "(", "{")):
        closed = closing(line, 0)
        whole = line[:closed] if closed else ""
        return whole if is_one(whole) else None
    if line.startswith(("'", '"')):
        return _string_at(line)
    word = re.match(r"-?[\w.+-]*\w", line)
    found = _WORDS.get(word[0].lower(), word[0]) if word else ""
    follows = line[word.end() :].lstrip() if word else ""
    # `f(1) == 2 * 3` or `f(1) is 2x` is no literal.
    computed = follows[:1] in {"*", "+", "/", "%", "(", "[", "<", "^"}
    tuple_ = follows.startswith(",") and not up_to_comma and re.match(r",\s*[\d'\"\[(-]", follows)
    return found if is_one(found) and not computed and not tuple_ else None


def _string_at(line: str) -> str | None:
    ends = [i + 1 for i, char in enumerate(line) if i and char == line[0]][:_MOST_QUOTES]
    text = next((line[:end] for end in ends if is_one(line[:end])), None)
    # A quote or word right after the string: it is mistyped, nobody knows what was meant.
    return text if text and not re.match(r"[\w\"']", line[len(text) :]) else None


def is_one(source: str) -> bool:
    """Whether the text is one literal value."""
    return python_source.literal(source) is not None
