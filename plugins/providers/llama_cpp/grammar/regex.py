"""Converts the regular expressions of JSON schemas to GBNF."""

from collections.abc import Callable
from typing import NoReturn

from msgspec import Struct

from plugins.providers.llama_cpp.grammar.charsets import EVERYTHING, Ranges, in_json, minus, union
from plugins.providers.llama_cpp.grammar.gbnf_parser import MOST_REPETITIONS

_DEEPEST = 32
_DIGITS: Ranges = ((48, 57),)
_WORD: Ranges = ((48, 57), (65, 90), (95, 95), (97, 122))
_BLANK: Ranges = ((9, 13), (32, 32), (160, 160), (0x2028, 0x2029), (0xFEFF, 0xFEFF))
_LINE_ENDS: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
_CLASSES = {
    "d": _DIGITS,
    "D": minus(EVERYTHING, _DIGITS),
    "w": _WORD,
    "W": minus(EVERYTHING, _WORD),
    "s": _BLANK,
    "S": minus(EVERYTHING, _BLANK),
}
_CONTROLS = {"n": 10, "r": 13, "t": 9, "f": 12, "v": 11, "0": 0}
_HEX = {"x": 2, "u": 4}
_QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class PatternError(Exception):
    """The pattern uses something that has no counterpart here; the text says what."""


class Pattern(Struct, frozen=True):
    """GBNF of a text, and how many characters such a text has (`longest` None: any number)."""

    gbnf: str
    shortest: int
    longest: int | None


_NOTHING = Pattern('""', 0, 0)


def pattern_of(source: str, write: Callable[[Ranges], str] = in_json) -> Pattern:
    """What a JSON schema's `pattern` allows: without anchors it may stand anywhere in the text.

    Knows characters, classes, groups, alternatives, quantifiers and outer anchors. `write`
    gives GBNF for one of the characters, "" if the text can hold none of them.
    Raises PatternError.
    """
    return _Reader(source, write).whole()


class _Reader:
    def __init__(self, source: str, write: Callable[[Ranges], str]) -> None:
        self._source = source
        self._write = write
        self._anything = Pattern(f"{write(EVERYTHING)}*", 0, None)
        self._at = 0
        self._depth = 0

    def whole(self) -> Pattern:
        branches = [self._branch()]
        while self._take("|"):
            branches.append(self._branch())
        if self._at < len(self._source):
            self._fail("')' without '('")
        return _either(branches)

    def _branch(self) -> Pattern:
        """One alternative of the whole pattern, which may be anchored on either side."""
        before = _NOTHING if self._take("^") else self._anything
        inner = self._sequence()
        after = _NOTHING if self._take("$") else self._anything
        if self._here not in {"|", ")", ""}:
            self._fail("anchors are supported at the ends only")
        return _row([before, inner, after])

    def _sequence(self) -> Pattern:
        parts: list[Pattern] = []
        while self._here not in {"", "|", ")", "$"}:
            parts.append(self._quantified(self._atom()))
        return _row(parts)

    def _atom(self) -> Pattern:
        char = self._next()
        match char:
            case "(":
                return self._group()
            case "[":
                return self._one(self._class())
            case ".":
                return self._one(minus(EVERYTHING, _LINE_ENDS))
            case "\\":
                return self._one(self._escape())
            case _:
                if char in "^*+?{":
                    self._fail(f"unexpected {char!r}")
                return self._one(((ord(char), ord(char)),))

    def _group(self) -> Pattern:
        self._depth += 1
        if self._depth > _DEEPEST:
            self._fail(f"groups must be nested at most {_DEEPEST} deep")
        if self._take("?") and not self._take(":"):
            self._fail("groups with '(?' other than '(?:' are not supported")
        branches = [self._sequence()]
        while self._take("|"):
            branches.append(self._sequence())
        if not self._take(")"):
            self._fail("')' is missing, or there is an anchor within a group")
        self._depth -= 1
        return _either(branches)

    def _quantified(self, atom: Pattern) -> Pattern:
        bounds = _QUANTIFIERS.get(self._here)
        if bounds is not None:
            self._at += 1
        elif self._here == "{":
            bounds = self._bounds()
        else:
            return atom
        self._take("?")
        low, high = bounds
        if atom.gbnf == '""' or high == 0:
            return _NOTHING
        longest = None if high is None or atom.longest is None else atom.longest * high
        count = f"{{{low},{'' if high is None else high}}}"
        return Pattern(f"({atom.gbnf}){count}", atom.shortest * low, longest)

    def _bounds(self) -> tuple[int, int | None]:
        end = self._source.find("}", self._at)
        low, comma, high = self._source[self._at + 1 : max(end, 0)].partition(",")
        digits = [text for text in (low, high) if text]
        if end < 0 or not low or any(not (d.isascii() and d.isdigit()) for d in digits):
            self._fail("a quantifier must be {n}, {n,} or {n,m}")
        self._at = end + 1
        least, most = int(low), int(high) if high else None if comma else int(low)
        if max(least, most or 0) > MOST_REPETITIONS:
            self._fail(f"an item must be repeated at most {MOST_REPETITIONS} times")
        if most is not None and most < least:
            self._fail("a quantifier's second number must not be less than the first")
        return least, most

    def _class(self) -> Ranges:
        inverse = self._take("^")
        parts: list[tuple[int, int]] = []
        while not self._take("]"):
            low = self._member()
            if self._here == "-" and self._source[self._at + 1 : self._at + 2] not in {"]", ""}:
                self._at += 1
                low = self._range(low, self._member())
            parts += low
        found = union(parts)
        return minus(EVERYTHING, found) if inverse else found

    def _range(self, low: Ranges, high: Ranges) -> Ranges:
        start, end = low[0][0], high[-1][1]
        if low != ((start, start),) or high != ((end, end),) or end < start:
            self._fail("a range must go from the lower to the higher character")
        return ((start, end),)

    def _member(self) -> Ranges:
        char = self._next()
        if char == "\\":
            return ((8, 8),) if self._take("b") else self._escape()
        return ((ord(char), ord(char)),)

    def _escape(self) -> Ranges:
        kind = self._next()
        if kind in _CLASSES:
            return _CLASSES[kind]
        if kind in _CONTROLS:
            return ((_CONTROLS[kind], _CONTROLS[kind]),)
        if kind in _HEX:
            digits = self._source[self._at : self._at + _HEX[kind]]
            if len(digits) < _HEX[kind] or any(d not in "0123456789abcdefABCDEF" for d in digits):
                self._fail(f"\\{kind} needs {_HEX[kind]} hexadecimal digits")
            self._at += _HEX[kind]
            return ((int(digits, 16), int(digits, 16)),)
        if kind.isalnum():
            self._fail(f"\\{kind} is not supported")
        return ((ord(kind), ord(kind)),)

    def _one(self, characters: Ranges) -> Pattern:
        gbnf = self._write(characters)
        if not gbnf:
            self._fail("no character allowed here can be written in the string")
        return Pattern(gbnf, 1, 1)

    @property
    def _here(self) -> str:
        return self._source[self._at : self._at + 1]

    def _next(self) -> str:
        if self._at >= len(self._source):
            self._fail("the pattern ends too early")
        self._at += 1
        return self._source[self._at - 1]

    def _take(self, char: str) -> bool:
        found = self._here == char
        self._at += found
        return found

    def _fail(self, reason: str) -> NoReturn:
        raise PatternError(f"at character {self._at}: {reason}")


def _row(parts: list[Pattern]) -> Pattern:
    parts = [part for part in parts if part != _NOTHING]
    if not parts:
        return _NOTHING
    longest: int | None = 0
    for part in parts:
        longest = None if longest is None or part.longest is None else longest + part.longest
    gbnf = " ".join(part.gbnf for part in parts)
    return Pattern(gbnf, sum(part.shortest for part in parts), longest)


def _either(branches: list[Pattern]) -> Pattern:
    if len(branches) == 1:
        return branches[0]
    longest: int | None = 0
    for each in branches:
        longest = None if longest is None or each.longest is None else max(longest, each.longest)
    gbnf = " | ".join(each.gbnf for each in branches)
    return Pattern(f"({gbnf})", min(each.shortest for each in branches), longest)
