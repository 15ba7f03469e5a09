"""Builds a GBNF grammar, with the rules that all JSON texts share."""

import re

from plugins.providers.llama_cpp.grammar.charsets import EVERYTHING, in_json

_AT_A_TIME = 100
_HEX = "[0-9a-fA-F]"
# No half of a surrogate pair, and the escapes JSON knows; other characters stand as they are.
_CHARACTER = (
    f'{in_json(EVERYTHING)} | "\\\\/" | '
    f'"\\\\u" ([0-9a-cA-Ce-fE-F] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}})'
)
_COMMON = {
    "space": '| " " | "\\n" " "{0,24}',
    "gap": '" "?',
    "char": _CHARACTER,
    "string": '"\\"" char* "\\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": '"{" space (member more-members* space)? "}"',
    "member": 'string ":" gap value',
    "more-members": '"," space member',
    "array": '"[" space (value more-values* space)? "]"',
    "more-values": '"," space value',
    "value": "object | array | string | number | boolean | null",
}
COMMON_NAMES = frozenset(_COMMON)


class Rules:
    """Rules by name; equal bodies share one."""

    def __init__(self) -> None:
        self._bodies: dict[str, str] = {}
        self._names: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._bodies)

    def reserve(self, hint: str) -> str:
        """A name whose body comes later, so that a rule can use itself."""
        name = f"{hint}-{len(self._bodies)}"
        self._bodies[name] = ""
        return name

    def define(self, name: str, body: str) -> str:
        """The body of a reserved name, or of a name of the caller's own."""
        self._bodies[name] = body
        return name

    def add(self, hint: str, body: str) -> str:
        """The name of a rule with this body."""
        known = self._names.get(body)
        if known is None:
            known = self._names[body] = self.define(self.reserve(hint), body)
        return known

    def repeated(self, name: str, low: int, high: int | None) -> str:
        """A rule so many times. Large counts go through rules for a hundred at a time."""
        if high is None:
            return f"{self._exactly(name, low)} {name}*".strip()
        return f"{self._exactly(name, low)} {self._up_to(name, high - low)}".strip()

    def text(self, root: str) -> str:
        """The whole grammar, as far as it is reached from this rule, which is its root."""
        return "\n".join(f"{name} ::= {body}" for name, body in self._reached(root).items()) + "\n"

    def _exactly(self, name: str, count: int) -> str:
        if count < _AT_A_TIME:
            return f"{name}{{{count}}}" if count else ""
        many = self.add("many", f"{name}{{{_AT_A_TIME}}}")
        rest = self._exactly(name, count % _AT_A_TIME)
        return f"{self._exactly(many, count // _AT_A_TIME)} {rest}".strip()

    def _up_to(self, name: str, count: int) -> str:
        """Few ways to read a text: only the last repetition can end at any place."""
        hundreds, rest = divmod(count, _AT_A_TIME)
        if hundreds <= 1:
            return f"{name}{{0,{count}}}" if count else ""
        many = self.add("many", f"{name}{{{_AT_A_TIME}}}")
        return f"{self._up_to(many, hundreds - 1)} {name}{{0,{_AT_A_TIME + rest}}}"

    def _reached(self, root: str) -> dict[str, str]:
        found = {"root": root}
        todo = [root]
        while todo:
            for name in _words(todo.pop()):
                body = self._bodies.get(name, _COMMON.get(name))
                if body is not None and name not in found:
                    found[name] = body
                    todo.append(body)
        return found


def _words(body: str) -> list[str]:
    """What may be rules' names in a body; texts and classes add some that are none."""
    return re.findall(r"[a-zA-Z0-9-]+", body)
