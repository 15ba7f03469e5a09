"""Parses GBNF as llama.cpp does, with errors that name the line and column."""

from collections.abc import Iterator

from msgspec import Struct

from plugins.providers.llama_cpp.grammar.charsets import EVERYTHING, Ranges, minus, union

MOST_REPETITIONS = 2000
_DEEPEST = 64
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_PLAIN_ESCAPES = 'trn\\"[]-'
_HIGHEST_CODE = 0x10FFFF
_QUANTIFIERS = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class GrammarError(Exception):
    """The text is no grammar that can be used; the message says where and why.

    `summary` is the message without the name of a `rule`, for those who did not write the grammar.
    """

    def __init__(self, reason: str, rule: str = "") -> None:
        super().__init__(f"the rule {rule!r} {reason}" if rule else reason)
        self.summary = f"a part of it {reason}" if rule else reason


class Chars(Struct, frozen=True):
    """Characters in a row, each one out of a set."""

    sets: tuple[Ranges, ...]


class Ref(Struct, frozen=True):
    """Another rule, by name."""

    name: str


class Group(Struct, frozen=True):
    """Alternatives in brackets."""

    alternatives: tuple[tuple["Item", ...], ...]


class Repeat(Struct, frozen=True):
    """A part from `low` to `high` times; None: any number of times."""

    item: "Chars | Ref | Group"
    low: int
    high: int | None


Item = Chars | Ref | Group | Repeat
Alternatives = tuple[tuple[Item, ...], ...]
Grammar = dict[str, Alternatives]


def parse(text: str) -> Grammar:
    """The rules by name; of two with one name the later. Raises GrammarError."""
    if "\0" in text:
        raise GrammarError("the grammar contains a NUL character")
    return dict(_Reader(text).rules())


class _Reader:
    """Recursive descent over the text; `_at` is the place reached."""

    def __init__(self, text: str) -> None:
        # NUL marks the end, so that looking ahead needs no bounds.
        self._text = text + "\0"
        self._at = 0
        self._depth = 0

    def rules(self) -> Iterator[tuple[str, Alternatives]]:
        self._space(newlines=True)
        while self._here != "\0":
            name = self._name()
            self._space()
            if not self._text.startswith("::=", self._at):
                raise self._error("'::=' is missing after the rule's name")
            self._at += 3
            self._space(newlines=True)
            yield name, self._alternatives(nested=False)
            if self._here not in "\r\n\0":
                raise self._error(f"unexpected {self._here!r}")
            self._space(newlines=True)

    @property
    def _here(self) -> str:
        return self._text[self._at]

    def _alternatives(self, *, nested: bool) -> Alternatives:
        found = [self._sequence(nested=nested)]
        while self._here == "|":
            self._at += 1
            self._space(newlines=True)
            found.append(self._sequence(nested=nested))
        return tuple(found)

    def _sequence(self, *, nested: bool) -> tuple[Item, ...]:
        items: list[Item] = []
        while True:
            quantity = self._quantity(nested=nested)
            if quantity is not None:
                items.append(self._repeated(items, *quantity))
                continue
            item = self._item()
            if item is None:
                return tuple(items)
            items.append(item)
            self._space(newlines=nested)

    def _repeated(self, items: list[Item], low: int, high: int | None) -> Item:
        """The last item, taken back to be repeated; what is repeated twice becomes a group."""
        last = items.pop() if items else Chars(())
        if last == Chars(()):
            raise self._error("a quantifier must follow an item")
        if isinstance(last, Repeat):
            return Repeat(Group(((last,),)), low, high)
        return Repeat(last, low, high)

    def _item(self) -> Chars | Ref | Group | None:
        match self._here:
            case '"':
                return self._literal()
            case "[":
                return self._class()
            case "(":
                return self._group()
            case ".":
                self._at += 1
                return Chars((EVERYTHING,))
            case "<" | "!":
                raise self._error("tokens in a grammar are not supported; write their text")
            case here if _in_name(here):
                return Ref(self._name())
            case _:
                return None

    def _literal(self) -> Chars:
        sets: list[Ranges] = []
        self._at += 1
        while self._here != '"':
            point = self._char()
            sets.append(((point, point),))
        self._at += 1
        return Chars(tuple(sets))

    def _class(self) -> Chars:
        self._at += 1
        inverse = self._here == "^"
        self._at += inverse
        if self._here == "]":
            raise self._error("a character class must not be empty")
        ranges: list[tuple[int, int]] = []
        while self._here != "]":
            low = high = self._char()
            if self._here == "-" and self._text[self._at + 1] != "]":
                self._at += 1
                high = self._char()
                if high < low:
                    raise self._error("a range must go from the lower to the higher character")
            ranges.append((low, high))
        self._at += 1
        found = union(ranges)
        return Chars((minus(EVERYTHING, found) if inverse else found,))

    def _group(self) -> Group:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._error(f"groups must be nested at most {_DEEPEST} deep")
        self._at += 1
        self._space(newlines=True)
        group = Group(self._alternatives(nested=True))
        if self._here != ")":
            raise self._error("')' is missing")
        self._at += 1
        self._depth -= 1
        return group

    def _quantity(self, *, nested: bool) -> tuple[int, int | None] | None:
        """The quantifier here, if there is one."""
        known = _QUANTIFIERS.get(self._here)
        if known is None and self._here != "{":
            return None
        self._at += 1
        if known is None:
            self._space(newlines=nested)
            known = self._bounds(nested=nested)
        self._space(newlines=nested)
        return known

    def _bounds(self, *, nested: bool) -> tuple[int, int | None]:
        low = self._count(nested=nested)
        high: int | None = low
        if self._here == ",":
            self._at += 1
            self._space(newlines=nested)
            high = self._count(nested=nested) if self._here in "0123456789" else None
        if self._here != "}":
            raise self._error("'}' is missing")
        if high is not None and high < low:
            raise self._error(f"{{{low},{high}}}: the second number is less than the first")
        self._at += 1
        return low, high

    def _count(self, *, nested: bool) -> int:
        start = self._at
        while self._here in "0123456789":
            self._at += 1
        digits = self._text[start : self._at]
        if not digits:
            raise self._error("a number is missing")
        if len(digits) > len(str(MOST_REPETITIONS)) or int(digits) > MOST_REPETITIONS:
            raise self._error(f"an item must be repeated at most {MOST_REPETITIONS} times")
        self._space(newlines=nested)
        return int(digits)

    def _char(self) -> int:
        """One character's code, escaped or not."""
        here = self._here
        if here == "\0":
            raise self._error("the grammar ends within a string or a character class")
        self._at += 1
        if here != "\\":
            return ord(here)
        return self._escaped()

    def _escaped(self) -> int:
        kind = self._here
        self._at += 1
        if kind in _PLAIN_ESCAPES:
            return ord({"t": "\t", "r": "\r", "n": "\n"}.get(kind, kind))
        length = _HEX_ESCAPES.get(kind)
        if length is None:
            self._at -= 1
            raise self._error(f"unknown escape \\{kind}")
        digits = self._text[self._at : self._at + length]
        if len(digits) < length or any(each not in "0123456789abcdefABCDEF" for each in digits):
            raise self._error(f"\\{kind} needs {length} hexadecimal digits")
        if int(digits, 16) > _HIGHEST_CODE:
            raise self._error(f"\\{kind}{digits} is not a character")
        self._at += length
        return int(digits, 16)

    def _name(self) -> str:
        start = self._at
        while _in_name(self._here):
            self._at += 1
        if start == self._at:
            raise self._error(f"expected a rule's name, found {self._shown}")
        return self._text[start : self._at]

    def _space(self, *, newlines: bool = False) -> None:
        blanks = " \t\r\n" if newlines else " \t"
        while self._here in blanks or self._here == "#":
            if self._here == "#":
                while self._here not in "\r\n\0":
                    self._at += 1
            else:
                self._at += 1

    @property
    def _shown(self) -> str:
        return "the end" if self._here == "\0" else repr(self._here)

    def _error(self, reason: str) -> GrammarError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - (self._text.rfind("\n", 0, self._at) + 1) + 1
        return GrammarError(f"line {line}, column {column}: {reason}")


def _in_name(char: str) -> bool:
    return char == "-" or (char.isascii() and char.isalnum())
