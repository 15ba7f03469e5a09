"""Rejects grammars on which llama.cpp would abort or never end.

llama.cpp follows every parse of a text at once. Therefore a grammar is rejected if it is
left-recursive, can never end, or has too many alternatives at the start of a rule. Each
check takes time proportional to the grammar's size.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator

from msgspec import Struct

from plugins.providers.llama_cpp.grammar.charsets import Ranges
from plugins.providers.llama_cpp.grammar.gbnf_parser import (
    Alternatives,
    Chars,
    Grammar,
    GrammarError,
    Group,
    Item,
    Ref,
    Repeat,
    parse,
)

ROOT = "root"
_MOST_BYTES = 512 * 1024
_MOST_PARTS = 500_000
_MOST_RULES = 20_000
_MOST_BEGINNINGS = 20_000


class Part(Struct, frozen=True):
    """One step of a sequence: a rule's name, or "" for the characters in `sets`.

    It stands from `low` to `high` times; None: any number of times.
    """

    rule: str
    sets: tuple[Ranges, ...]
    low: int = 1
    high: int | None = 1

    @property
    def size(self) -> int:
        """That of one copy, in characters or rules."""
        return 1 if self.rule else len(self.sets)

    @property
    def optional(self) -> bool:
        """Whether it may be left out."""
        return self.low == 0

    @property
    def copies(self) -> int:
        """How many stand in the grammar once repetitions are written out."""
        return max(1, self.low, self.high or 0)

    @property
    def again(self) -> bool:
        """Whether another copy may follow one."""
        return self.high is None or self.copies > 1


Rules = dict[str, list[list[Part]]]
Needs = list[tuple[str, list[str]]]


def checked_rules(text: str) -> Rules:
    """The rules of a grammar without harm. Raises GrammarError with the place and the reason."""
    size = len(text.encode())
    if size > _MOST_BYTES:
        raise GrammarError(f"it has {size} bytes; the limit is {_MOST_BYTES}")
    rules = _flat(parse(text))
    if ROOT not in rules:
        raise GrammarError(f"the rule {ROOT!r} is missing")
    _check_names(rules)
    _check_size(rules)
    _check_beginnings(rules, _derivable(_needs_for_nothing(rules)))
    if ROOT not in _derivable(_needs_for_an_end(rules)):
        raise GrammarError("it matches no finite text: a rule always needs itself")
    return rules


def is_recursive(rules: Rules, known: Collection[str] = ()) -> bool:
    """Whether a rule can stand within itself; `known` rules don't count."""
    needs = [
        (name, [part.rule for sequence in sequences for part in sequence if part.rule])
        for name, sequences in rules.items()
    ]
    free = [(name, [] if name in known else needed) for name, needed in needs]
    return len(_derivable(free)) < len(rules)


def _flat(grammar: Grammar) -> Rules:
    """Groups become rules of their own, named after the one that they stand in."""
    rules: Rules = {}
    todo: list[tuple[str, Alternatives]] = list(grammar.items())
    while todo:
        name, alternatives = todo.pop()
        rules[name] = [[] for _ in alternatives]
        for sequence, items in zip(rules[name], alternatives, strict=True):
            for at, item in enumerate(items):
                inner = item.item if isinstance(item, Repeat) else item
                group = f"{name}_{len(todo)}_{len(rules)}_{at}"
                sequence.append(_part(item, inner, group))
                if isinstance(inner, Group):
                    todo.append((group, inner.alternatives))
    return rules


def _part(item: Item, inner: Item, group: str) -> Part:
    rule = inner.name if isinstance(inner, Ref) else group if isinstance(inner, Group) else ""
    sets = inner.sets if isinstance(inner, Chars) else ()
    if not isinstance(item, Repeat):
        return Part(rule, sets, low=int(bool(rule or sets)))
    return Part(rule, sets, item.low, item.high)


def _check_names(rules: Rules) -> None:
    for name, part in _parts(rules):
        if part.rule and part.rule not in rules:
            raise GrammarError(f"uses {part.rule!r}, which is not defined", name)


def _check_size(rules: Rules) -> None:
    parts = sum(part.size * part.copies + 1 for _, part in _parts(rules))
    if parts > _MOST_PARTS or len(rules) > _MOST_RULES:
        raise GrammarError(
            f"it is too large: {len(rules)} rules and, with repetitions expanded, {parts} items; "
            f"the limits are {_MOST_RULES} and {_MOST_PARTS}"
        )


def _parts(rules: Rules) -> Iterator[tuple[str, Part]]:
    for name, sequences in rules.items():
        for sequence in sequences:
            for part in sequence:
                yield name, part


def _needs_for_nothing(rules: Rules) -> Needs:
    """Which rules have to stand for nothing so that another one can."""
    return [
        (name, [part.rule for part in sequence if not part.optional])
        for name, sequences in rules.items()
        for sequence in sequences
        if all(part.rule or part.optional for part in sequence)
    ]


def _needs_for_an_end(rules: Rules) -> Needs:
    """Which rules have to end so that another one can."""
    return [
        (name, [part.rule for part in sequence if part.rule and not part.optional])
        for name, sequences in rules.items()
        for sequence in sequences
    ]


def _derivable(needs: Needs) -> set[str]:
    """The names that follow when (name, names needed) are applied until nothing is new."""
    missing = [len(needed) for _, needed in needs]
    used: defaultdict[str, list[int]] = defaultdict(list)
    for at, (_, needed) in enumerate(needs):
        for name in needed:
            used[name].append(at)
    found: set[str] = set()
    todo = [name for name, needed in needs if not needed]
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        for at in used[name]:
            missing[at] -= 1
            if not missing[at]:
                todo.append(needs[at][0])
    return found


def _check_beginnings(rules: Rules, nullable: set[str]) -> None:
    """No rule may begin with itself, nor have too many ways to begin.

    The rules are visited depth first, without recursion in Python: chains can be long.
    """
    begins = {name: _first(sequences, nullable) for name, sequences in rules.items()}
    ways: dict[str, int] = {}
    for start in rules:
        path = [] if start in ways else [(start, iter(begins[start]))]
        open_rules = {start}
        while path:
            name, nexts = path[-1]
            following = next((each for each in nexts if each not in ways), None)
            if following is None:
                path.pop()
                open_rules.discard(name)
                ways[name] = _ways(name, begins[name], ways)
            elif following in open_rules:
                shown = following.partition("_")[0]
                raise GrammarError("begins with itself (left recursion)", shown)
            else:
                open_rules.add(following)
                path.append((following, iter(begins[following])))


def _first(sequences: Iterable[list[Part]], nullable: set[str]) -> Counter[str]:
    """The rules that may come first, and in how many ways each."""
    found: Counter[str] = Counter()
    for sequence in sequences:
        for part in sequence:
            empty = part.rule in nullable
            if part.rule:
                found[part.rule] += part.copies if empty else 1
            if not (part.optional or empty):
                break
    return found


def _ways(name: str, begins: Counter[str], ways: dict[str, int]) -> int:
    total = 1 + sum(times * ways[each] for each, times in begins.items())
    if total > _MOST_BEGINNINGS:
        raise GrammarError(
            f"can start in more than {_MOST_BEGINNINGS} ways; merge alternatives that start alike",
            name.partition("_")[0],
        )
    return total
